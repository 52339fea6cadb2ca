"""The error that is the user's to mend. Commands show its one line instead of a traceback."""


class InputError(ValueError):
    """Bad input: the text is one line that names it, what was expected and what came."""


class RunError(InputError):
    """A run's folder that cannot be used as asked; the text is one line."""
