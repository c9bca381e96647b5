"""Rounding of numbers for print: as many digits as the uncertainty allows, powers of ten only if needed."""

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal

# Outside these bounds a power of ten is easier to read than zeros.
_LARGE, _SMALL = Decimal(10) ** 6, Decimal(10) ** -3
# Significant digits of a value without uncertainty, and of a float64, below which an error is rounding.
_DIGITS, _RESOLVED = 3, 15
_POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def rounded(value: float, error: float | None = None, interval: Sequence[float] = ()) -> str:
    """Return a number with its uncertainty, such as `(6.9 ± 0.2) × 10⁻⁵` or `0.80 [0.55, 0.93]`.

    Args:
        value: any float.
        error: its standard error, which keeps two significant digits; the value gets as many decimal places. Without an
            error, or with 0, the value has three significant digits; digits before the point are never dropped.
        interval: its lower and upper end; two significant digits of the half width decide the decimal places.
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    ends = [_exact(end) for end in interval] if all(map(math.isfinite, interval)) else []
    whole = _exact(value)
    spread = (
        abs(ends[1] - ends[0]) / 2 if ends else abs(_exact(error)) if error and math.isfinite(error) else Decimal(0)
    )
    if whole and spread and spread.adjusted() < whole.adjusted() - _RESOLVED:
        spread = Decimal(0)
    power = _last_digit(spread, 2) if spread else _last_shown_digit(whole)
    numbers = [_to_power(number, power) for number in (whole, *(ends or [spread] * bool(spread)))]
    largest = max(map(abs, numbers))
    exponent = largest.adjusted() if largest and (largest >= _LARGE or largest < _SMALL) else 0
    text, *others = (_digits(number, power, exponent) for number in numbers)
    if error is not None and not math.isfinite(error) and not ends:
        others = ["NaN"]
    if others:
        text += f" [{', '.join(others)}]" if ends else f" ± {others[0]}"
    if exponent:
        text = f"({text})" if others else text
        text += f" × 10{str(exponent).translate(_POWERS)}"
    return text


def _exact(number: float) -> Decimal:
    """Return the shortest decimal that is read back as the same float, so that 0.25 rounds as a reader expects."""
    return Decimal(repr(float(number)))


def _last_digit(number: Decimal, digits: int) -> int:
    """Return the power of ten of the last of some significant digits after rounding: with two, 0.0996 becomes 0.10."""
    power = number.adjusted() - digits + 1
    return power + (_to_power(number, power).adjusted() > number.adjusted())


def _last_shown_digit(whole: Decimal) -> int:
    """Return the power of ten of the last significant digit, between those of the ones and of the value's last."""
    if not whole:
        return 0
    # A round number needs no zeros after the point.
    power = max(_last_digit(whole, _DIGITS), int(whole.normalize().as_tuple().exponent))
    return power if abs(whole) >= _LARGE else min(power, 0)


def _to_power(number: Decimal, power: int) -> Decimal:
    if number.as_tuple().exponent == power or not number:
        return number
    return (number.scaleb(-power)).quantize(Decimal(1), ROUND_HALF_EVEN).scaleb(power)


def _digits(number: Decimal, power: int, exponent: int) -> str:
    text = f"{number.scaleb(-exponent):.{max(exponent - power, 0)}f}"
    return text.removeprefix("-") if not number else text.replace("-", "−")
