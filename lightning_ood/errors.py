"""The one error a user is meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used: a name, a key, a file, a set, a network.

    The message names what was given, what is wrong with it and what to write instead. The command line prints
    it without a traceback and exits with code 2.
    """


@contextmanager
def about(what: str) -> Iterator[None]:
    """Says what an error is about: the short fact is raised deep, the context is added here."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{what}: {type(error).__name__}: {error}") from error
