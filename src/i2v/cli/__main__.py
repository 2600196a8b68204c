"""`python -m i2v.cli` is `i2v`."""

from i2v.cli import main

if __name__ == "__main__":
    main()
