"""``python -m ensync`` is the ``ensync`` command."""

from ensync_command import main

if __name__ == "__main__":
    main()
