"""`python -m fedemb` is the same as `fedemb`."""

from fedemb.cli.main import main

if __name__ == "__main__":
    main()
