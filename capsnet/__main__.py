"""``python -m capsnet`` is ``capsnet``."""

from capsnet.cli.main import main

if __name__ == "__main__":
    main()
