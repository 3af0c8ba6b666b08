"""`python -m nlsr`: the command, where `nlsr` itself is not on the search path."""

from nlsr.cli import main

if __name__ == "__main__":
    main()
