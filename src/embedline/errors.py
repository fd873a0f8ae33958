"""The errors that a user can mend: one sentence that names the file, column, row or key."""


class DataError(ValueError):
    """The data or a setting is at fault, not the code; the message says what to mend and where."""
