"""ANSWER: what can be proven, and to whom."""
