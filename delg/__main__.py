"""``python -m delg``: the command line."""

from delg.cli.main import main

if __name__ == "__main__":
    main()
