"""`python -m ngrpo`: the command line."""

from ngrpo.cli.main import main

if __name__ == "__main__":
    main()
