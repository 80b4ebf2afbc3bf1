"""The errors whose message is written for the user."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """An input of the user (a name, key, file, data set or network) cannot be used.

    The message says what was given, what is wrong with it and what to write instead. The command line prints it
    without a traceback and exits with code 2.
    """


class NotFiniteError(InputError):
    """A feature, fit or score is NaN or infinite."""


@contextmanager
def context(name: str) -> Iterator[None]:
    """Adds context (detector, dataset, file) to an error raised further down."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error
