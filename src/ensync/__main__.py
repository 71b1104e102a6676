"""``python -m ensync`` is the ``ensync`` command."""

from ensync.cli import main

if __name__ == "__main__":
    main()
