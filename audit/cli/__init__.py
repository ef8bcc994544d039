"""The `audit` command: parse, call one function, show, exit."""
