"""The one exception that is meant for a person: its text says what is wrong, where, and what to do."""


class GrokoraError(Exception):
    """A mistake the user can mend. Commands print its text alone, without a stack trace, and exit with 2."""
