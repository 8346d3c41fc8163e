"""Entry point of the `meterline` command and of `python -m meterline`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
