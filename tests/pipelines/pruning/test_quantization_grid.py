"""Tests that grids span their rows, contain zero exactly, and round every weight to the nearest point."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunescope.pipelines.pruning.methods.quantization_grid import grid, grids, quantized
from prunescope.pipelines.pruning.weight_delta import QuantizedWeights

finite = st.floats(-(2.0**100), 2.0**100, width=32)
rows = st.integers(1, 7).flatmap(lambda n: st.lists(st.lists(finite, min_size=n, max_size=n), min_size=1, max_size=4))


@given(rows, st.integers(2, 8), st.booleans())
def test_every_weight_gets_the_nearest_point_of_its_grid(values: list[list[float]], bits: int, symmetric: bool) -> None:
    weight = torch.tensor(values)
    scale, zero = grid(weight, bits, symmetric)
    codes = quantized(weight, scale, zero, bits)
    assert (scale > 0).all()
    assert ((zero >= 0) & (zero < 2**bits) & (zero == zero.round())).all()
    points = (torch.arange(2**bits)[None].double() - zero[:, None].double()) * scale[:, None].double()
    away = (weight.double()[:, :, None] - points[:, None]).abs()
    chosen = away.gather(2, codes[:, :, None].long())[:, :, 0]
    largest = weight.abs().amax(dim=1, keepdim=True).double()
    assert (chosen <= away.amin(dim=2) + 1e-6 * largest).all()
    # Half a step, and what moving zero onto the grid (half a step), or one code less above than below, costs.
    assert (chosen <= scale[:, None].double() * (1 + 1e-5)).all()


@given(rows, st.integers(2, 8), st.booleans())
def test_zero_stays_exactly_zero(values: list[list[float]], bits: int, symmetric: bool) -> None:
    weight = torch.tensor(values)
    weight[:, 0] = 0
    scales, zeros = grids(weight, bits, weight.shape[1], symmetric)
    codes = QuantizedWeights.of(
        quantized(weight, scales[:, 0], zeros[:, 0], bits), bits, weight.shape[1], scales, zeros
    )
    assert (codes.weight(*weight.shape)[:, 0] == 0).all()


def test_rows_of_zeros_and_constant_rows_are_exact() -> None:
    weight = torch.tensor([[0.0, 0, 0], [3, 3, 3], [-0.5, -0.5, -0.5], [1e-45, 0, 0]])
    scale, zero = grid(weight, 4, symmetric=False)
    back = (quantized(weight, scale, zero, 4).float() - zero[:, None]) * scale[:, None]
    torch.testing.assert_close(back, weight, rtol=1e-6, atol=1e-40)
    assert scale[0] == scale[3] == 1, "no step is zero"


def test_the_last_group_of_a_row_may_be_shorter() -> None:
    scales, zeros = grids(torch.arange(10.0).reshape(2, 5), 8, 2, symmetric=False)
    assert scales.shape == zeros.shape == (2, 3)
    torch.testing.assert_close(scales[1], torch.tensor([6.0, 8, 9]) / 255)


@pytest.mark.parametrize(
    ("row", "symmetric", "zero", "codes"),
    [([-1.0, 0.2, 2.0], False, 1, [0, 1, 3]), ([-1.5, 0.1, 1.5], True, 2, [0, 2, 3])],
)
def test_the_ends_of_a_row_are_those_of_its_grid_which_has_one_code_less_above_zero_if_it_is_symmetric(
    row: list[float], symmetric: bool, zero: int, codes: list[int]
) -> None:
    weight = torch.tensor([row])
    scale, offset = grid(weight, 2, symmetric)
    assert (scale.item(), offset.item()) == (1, zero)
    assert quantized(weight, scale, offset, 2).tolist() == [codes]
