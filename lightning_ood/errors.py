"""The errors whose message is written for the user."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


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


def close_names(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Finds up to ``most`` of ``names`` that ``name`` may be a misspelling of, the closest first; case is ignored."""
    by_lower: dict[str, str] = {}
    for other in names:
        by_lower.setdefault(other.lower(), other)
    return [by_lower[match] for match in get_close_matches(name.lower(), by_lower, most)]


def write_one_of(name: str, names: Iterable[str], otherwise: Iterable[str] = ()) -> str:
    """Advises what to write instead of a wrong name: ``write one of a, b``.

    Args:
        name: the wrong name.
        names: the valid names; those close to ``name`` are listed.
        otherwise: listed where none is close; all of ``names`` where empty.
    """
    names = list(names)
    listed = close_names(name, names) or list(otherwise) or names
    return f"write one of {', '.join(listed)}" if listed else "there is none to choose from"
