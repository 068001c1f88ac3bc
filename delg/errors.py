"""Errors that the user can fix; the command line prints them without a traceback."""


class DelgError(Exception):
    """The work cannot go on; the message names the file, key or value at fault and what to do."""


class UsageError(DelgError):
    """The request makes no sense as it stands (exit code 2 of the command line)."""


class ModelError(DelgError):
    """A model, its settings or its weights are missing, broken or do not fit each other."""
