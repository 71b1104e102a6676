"""``python -m ensync_command`` is the ``ensync`` command as it is installed."""

from ensync_command import main

if __name__ == "__main__":
    main()
