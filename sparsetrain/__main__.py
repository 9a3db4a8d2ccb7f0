"""`python -m sparsetrain`."""

from sparsetrain.cli.main import main

if __name__ == "__main__":
    main()
