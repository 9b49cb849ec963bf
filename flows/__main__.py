"""`python -m flows` is the `naruto` command."""

from flows.cli import main

main()
