"""The command line, as `python -m prunescope`."""

from prunescope.assets.cli import main

if __name__ == "__main__":
    main()
