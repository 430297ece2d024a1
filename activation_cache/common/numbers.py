"""Numbers as people read them."""

import math

Number = int | float
"""At run time beartype refuses an int where a float is declared; JSON and callers have both."""


def format_number(value: Number | None) -> str:
    """Four significant digits, thousands marked, whole numbers as they are; nothing for None.

    >>> format_number(0.046218), format_number(25_000), format_number(1234.5)
    ('0.04622', '25,000', '1,234')
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e15:
        return f"{value:.4g}"
    if abs(value) >= 1e3 or float(value).is_integer():
        return f"{value:,.0f}"
    return _plain_exponent(f"{value:.4g}")


def compact(value: Number) -> str:
    """A tick label: 250000 reads 250k, 1.5e6 reads 1.5M, 2e-5 reads 2e-5."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e15:
            return f"{value / size:g}{suffix}"
    return _plain_exponent(f"{value:g}")


def _plain_exponent(text: str) -> str:
    """2e-05 as 2e-5."""
    digits, _, exponent = text.partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits
