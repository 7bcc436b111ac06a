"""``python -m capsnet`` is ``capsnet``."""

from capsnet.cli import main

main()
