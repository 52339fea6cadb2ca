"""The error that is the user's to mend. Commands show its one line instead of a traceback."""

MAX_SHOWN = 200  # characters of a value


def one_line(error: BaseException, most: int | None = None) -> str:
    """An error's text in one line, or the name of its kind where it says nothing itself.

    Args:
        most: characters after which it is cut: some libraries put whole networks into their text.
    """
    return shown(error, most) or type(error).__name__


def shown(value: object, most: int | None = MAX_SHOWN) -> str:
    """A value in one line of at most so many characters, after which it is cut."""
    text = " ".join(str(value).split())
    return text if most is None or len(text) <= most else f"{text[:most]}…"


class InputError(ValueError):
    """Bad input: the text is one line that names it, what was expected and what came."""


class RunError(InputError):
    """A run's folder that cannot be used as asked; the text is one line."""
