"""One use case as data: what to read, what to predict, how to judge it, whom to tell."""
