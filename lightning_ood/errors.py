"""The one error a user is meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used: a name, a key, a file, a set, a network.

    The message names what was given, what is wrong with it and what to write instead. The command line prints
    it without a traceback and exits with code 2.
    """


class NotFiniteError(InputError):
    """A number that is NaN or infinite where no input that was read well gives one."""


@contextmanager
def about(what: str) -> Iterator[None]:
    """Adds context (detector, dataset, file) to an error raised further down."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{what}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{what}: {type(error).__name__}: {error}") from error
