"""Checks of the numbers that detectors are given: each refuses a value out of its range, and NaN."""

from __future__ import annotations

from lightning_ood.errors import InputError


def check_percentile(name: str, value: float | None, below: bool = False) -> None:
    """Checks a percentile, from 0 to 100.

    Args:
        name: the argument's name, for the error.
        value: the percentile; None is not checked.
        below: whether 100 itself is refused too, which would keep no unit.

    Raises:
        InputError: if it is outside.
    """
    if value is not None and not (0 <= value < 100 if below else 0 <= value <= 100):
        raise InputError(f"{name}={value} is not a percentile: write a number from 0 to 100{' (exclusive)' * below}")


def check_share(name: str, value: float, below: bool = True) -> None:
    """Checks a fraction, from 0 to 1.

    Args:
        name: the argument's name, for the error.
        value: the fraction.
        below: whether 1 itself is refused too.

    Raises:
        InputError: if it is outside.
    """
    if not (0 <= value < 1 if below else 0 <= value <= 1):
        raise InputError(f"{name}={value} is not a fraction: write a number from 0 to 1{' (exclusive)' * below}")


def check_positive(name: str, value: float) -> None:
    """Checks a number that has to be above zero and finite, such as a temperature.

    Raises:
        InputError: if it is not.
    """
    if not 0 < value < float("inf"):
        raise InputError(f"{name}={value} is not a positive number: write one above 0")


def check_at_least(name: str, value: float, least: float) -> None:
    """Checks a number that has a smallest value and is finite, such as a count.

    Raises:
        InputError: if it is smaller.
    """
    if not least <= value < float("inf"):
        raise InputError(f"{name}={value} is too small or no number: write at least {least}")


def check_number(name: str, value: float | None) -> None:
    """Checks a number that may have any value but NaN; None is not checked.

    Raises:
        InputError: if it is NaN.
    """
    if value is not None and value != value:
        raise InputError(f"{name}={value} is not a number: write one")
