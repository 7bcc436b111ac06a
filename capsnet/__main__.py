"""``python -m capsnet`` is ``capsnet``."""

from capsnet.cli.main import main

main()
