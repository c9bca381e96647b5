"""Rounding of numbers to two digits of their error."""

import math
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunescope.warehouse.export.rounding import rounded

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("value", "error", "printed"),
    [
        (0.6912, 0.0234, "0.691 ± 0.023"),
        (0.69, 0.0996, "0.69 ± 0.10"),
        (0.69, 0.0994, "0.690 ± 0.099"),
        (12345.0, 678.0, "12340 ± 680"),
        (6.93e-5, 2.1e-6, "(6.93 ± 0.21) × 10⁻⁵"),
        (5e7, 4e5, "(5.000 ± 0.040) × 10⁷"),
        (1e-9, 0.02, "0.000 ± 0.020"),
        (-0.0001, 0.02, "0.000 ± 0.020"),
        (-1.5, 0.25, "−1.50 ± 0.25"),
        (0.0, 0.0, "0"),
        (2.5, 0.0, "2.5"),
        (0.25, None, "0.25"),
        (0.69314718, None, "0.693"),
        (99.96, None, "100"),
        (1277.4, None, "1277"),
        (123456.7, None, "123457"),
        (1234567.0, None, "1.23 × 10⁶"),
        (0.00012345, None, "1.23 × 10⁻⁴"),
        (0.00123, None, "0.00123"),
        (math.nan, 1.0, "NaN"),
        (-math.inf, None, "−∞"),
        (1.0, math.nan, "1 ± NaN"),
    ],
)
def test_numbers_are_rounded_by_their_error_and_else_to_three_digits(
    value: float, error: float | None, printed: str
) -> None:
    assert rounded(value, error) == printed


def test_an_interval_sets_the_digits_by_its_half_width() -> None:
    assert rounded(0.8, interval=(0.5512, 0.9345)) == "0.80 [0.55, 0.93]"
    assert rounded(5e-5, interval=(4e-5, 7e-5)) == "(5.0 [4.0, 7.0]) × 10⁻⁵"
    assert rounded(0.5, interval=(math.nan, 1.0)) == "0.5"
    assert rounded(3.0, interval=(3.0, 3.0)) == "3 [3, 3]"


PRINTED = re.compile(r"\(?([−\d.]+)(?: ± ([\d.]+))?\)?(?: × 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?")


def parsed(text: str) -> tuple[Decimal, Decimal | None, int]:
    """Return value and error before the power of ten, and its exponent."""
    value, error, power = PRINTED.fullmatch(text).groups()
    exponent = int((power or "0").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    return Decimal(value.replace("−", "-")), None if error is None else Decimal(error), exponent


@given(value=FINITE, error=st.floats(min_value=5e-324, allow_infinity=False))
def test_printed_numbers_are_within_half_a_unit_of_the_last_place(value: float, error: float) -> None:
    shown, shown_error, exponent = parsed(rounded(value, error))
    if shown_error is None:
        assert error < abs(value) * 1e-14, "below what a float64 resolves"
        return
    power = Decimal(10) ** exponent
    printed, printed_error = shown * power, shown_error * power
    unit = Decimal(10) ** (shown_error.as_tuple().exponent + exponent)
    if printed_error >= 1 and exponent == 0 and shown_error.as_tuple().exponent == 0:
        unit = Decimal(10) ** (printed_error.adjusted() - 1)
    assert abs(printed - Decimal(repr(value))) <= unit / 2
    assert abs(printed_error - Decimal(repr(error))) <= unit / 2
    assert len(shown_error.normalize().as_tuple().digits) <= 2


@given(FINITE)
def test_a_number_without_an_error_keeps_three_digits(value: float) -> None:
    shown, _, exponent = parsed(rounded(value))
    printed = shown * Decimal(10) ** exponent
    assert abs(printed - Decimal(repr(value))) <= abs(Decimal(repr(value))) * Decimal("0.0051")
