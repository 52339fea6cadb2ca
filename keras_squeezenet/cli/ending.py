"""How commands end when their input is bad: one line on standard error, status 2."""

import contextlib
import sys
from collections.abc import Iterator

from keras_squeezenet.errors import InputError
from keras_squeezenet.printing import printable, write_anything


@contextlib.contextmanager
def one_line_for_bad_input(program: str) -> Iterator[None]:
    """Run a program, and end the process where an error is the input's.

    Args:
        program: what the line begins with.
    """
    write_anything()
    try:
        yield
    except (InputError, OSError) as error:
        print(f"{program}: {printable(error)}", file=sys.stderr, flush=True)
        sys.exit(2)
