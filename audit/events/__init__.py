"""GROUND: what an event is, which types there are, and the bytes that stand for it."""
