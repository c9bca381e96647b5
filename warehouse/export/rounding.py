"""Numbers as a paper prints them: no more digits than their uncertainty leaves, powers of ten only where needed.

Numbers to digits; how signs and powers are written in LaTeX or HTML belongs to `typeset`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

# From here on a power of ten is easier to read than the zeros.
_LARGE, _SMALL = Decimal(10) ** 6, Decimal(10) ** -3
# Digits that a float64 resolves; a smaller error is its rounding.
_RESOLVED = 15


@dataclass(frozen=True)
class Number:
    """A rounded number.

    Attributes:
        value: digits with a sign where negative; `NaN` and `inf` are themselves.
        error: digits of the standard error, empty where there is none.
        interval: digits of both ends; empty where there is none.
        exponent: power of ten that all of them are to be multiplied with.
    """

    value: str
    error: str = ""
    interval: tuple[str, ...] = ()
    exponent: int = 0


def rounded(
    value: float, error: float | None = None, interval: Sequence[float] | None = None, digits: int = 3
) -> Number:
    """The number with its uncertainty.

    Args:
        value: any float.
        error: its standard error, of which two significant digits are kept and as many places of the value. An error of
            0 or none leaves the value with `digits`.
        interval: its lower and upper end, of whose half width two significant digits are kept.
        digits: significant digits of a value without uncertainty; digits before the point are never dropped.
    """
    if not math.isfinite(value):
        return Number("NaN" if math.isnan(value) else str(value))
    ends = [] if interval is None or not all(map(math.isfinite, interval)) else [_exact(end) for end in interval]
    whole = _exact(value)
    spread = abs(ends[1] - ends[0]) / 2 if ends else _exact(error) if error and math.isfinite(error) else Decimal(0)
    if whole and spread and spread.adjusted() < whole.adjusted() - _RESOLVED:
        spread = Decimal(0)
    place = _second_place(abs(spread)) if spread else _last_place(whole, digits)
    numbers = [_to_place(number, place) for number in (whole, *ends, *([] if ends or not spread else [abs(spread)]))]
    largest = max(abs(number) for number in numbers)
    exponent = largest.adjusted() if largest and (largest >= _LARGE or largest < _SMALL) else 0
    texts = [_digits(number, place, exponent) for number in numbers]
    if ends:
        return Number(texts[0], interval=tuple(texts[1:]), exponent=exponent)
    told = "NaN" if error is not None and not math.isfinite(error) else "".join(texts[1:])
    return Number(texts[0], error=told, exponent=exponent)


def _exact(number: float) -> Decimal:
    """The shortest decimal that gives the float back, so that 0.25 rounds as a reader would round it."""
    return Decimal(repr(float(number)))


def _second_place(spread: Decimal) -> int:
    """Power of ten of the second significant digit, after rounding: 0.0996 becomes 0.10."""
    place = spread.adjusted() - 1
    return place + (_to_place(spread, place).adjusted() > spread.adjusted())


def _last_place(whole: Decimal, digits: int) -> int:
    """Power of ten of the last of so many significant digits; at most that of the ones, at least that of the value."""
    if not whole:
        return 0
    place = whole.adjusted() - digits + 1
    place += _to_place(whole, place).adjusted() > whole.adjusted()
    # A round number needs no zeros behind the point.
    shortest = whole.normalize().as_tuple().exponent
    place = max(place, int(shortest))
    return place if abs(whole) >= _LARGE else min(place, 0)


def _to_place(number: Decimal, place: int) -> Decimal:
    if number.as_tuple().exponent == place or not number:
        return number
    return (number.scaleb(-place)).quantize(Decimal(1), ROUND_HALF_EVEN).scaleb(place)


def _digits(number: Decimal, place: int, exponent: int) -> str:
    text = f"{number.scaleb(-exponent):.{max(exponent - place, 0)}f}"
    return text.removeprefix("-") if not number else text
