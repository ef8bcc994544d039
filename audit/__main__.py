"""`python -m audit` is the `audit` command."""

from audit.cli.app import main

main()
