"""Errors that are the user's to mend; the command line prints them without a traceback."""


class DelgError(Exception):
    """The work cannot go on; the message names the file, key or value at fault and what to do."""


class UsageError(DelgError):
    """What was asked makes no sense as it stands (command line exit code 2)."""


class ModelError(DelgError):
    """A model, its settings or its weights are missing, broken or do not fit each other."""
