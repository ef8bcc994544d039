"""What a draft is made of: the data opened and looked at, guesses with their reasons, and the text."""
