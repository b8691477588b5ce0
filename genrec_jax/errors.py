"""The one exception type that users are meant to read; every stage raises it for bad input."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message says what was got, what was wanted and what to do, naming the file and line where
    there is one. The command line prints it as one readable line and exits with code 2; Python
    callers catch it like any exception.
    """

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None):
        self.file = file
        self.line = line
        if file is not None:
            place = file if line is None else f"{file}:{line}"
            message = f"{place}: {message}"
        super().__init__(message)
