"""Turns to an agent's dataset and its split, and the way back from an example to its log line."""
