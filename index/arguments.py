"""Checks of numbers that callers give."""

from __future__ import annotations

import operator

from delg.errors import UsageError


def whole_number(name: str, value: int, minimum: int) -> int:
    """The value, if it is a whole number of at least ``minimum``.

    Raises:
        UsageError: it is not; the message names it.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name}={value!r}: must be a whole number") from None
    if number < minimum:
        raise UsageError(f"{name}={value!r}: must be {minimum} or more")
    return number


def check_probability(name: str, value: float) -> None:
    """Make sure that a value is from 0 to 1.

    Raises:
        UsageError: it is not; the message names it.
    """
    if not 0 <= value <= 1:
        raise UsageError(f"{name}={value!r}: must be from 0 to 1")
