"""Angles and parts of a shift, where subtraction from one would lose everything."""

import math

import pytest
import torch

from pipelines.metrics.reference import space_reference
from pipelines.metrics.spaces import space_metrics


@pytest.mark.parametrize("angle", [1e-9, 1e-6, 1e-4, 0.1, 1.0, math.pi / 2, 3.0])
def test_a_rotation_gives_its_own_angle_down_to_the_smallest(angle):
    # A shift of (cos φ − 1, sin φ), with cos φ − 1 formed as −2 sin²(φ/2).
    v = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    defect = 2 * math.sin(angle / 2) ** 2
    measured = space_metrics(v, torch.tensor([[-defect, math.sin(angle)]], dtype=torch.float64))
    assert float(measured["one_minus_cos"]) == pytest.approx(defect, rel=1e-12)
    assert float(measured["par_rel"]) == pytest.approx(-defect, rel=1e-12)
    assert float(measured["t1"]) == pytest.approx(math.sin(angle) ** 2 / 2, rel=1e-12)


def test_a_shift_along_the_vector_has_no_angle_until_it_turns_it_round():
    v = torch.tensor([[1.0, 2.0, -2.0]])
    assert float(space_metrics(v, 5 * v)["one_minus_cos"]) == 0
    assert float(space_metrics(v, -2 * v)["one_minus_cos"]) == 2
    assert torch.isnan(space_metrics(v, -v)["one_minus_cos"]).all()


def test_the_parts_are_those_of_the_plain_definition():
    generator = torch.Generator().manual_seed(0)
    v, dv = torch.randn(20, 30, generator=generator), torch.randn(20, 30, generator=generator)
    truth = space_reference(v, v.double() + dv.double(), "h")
    names = ("norm_h", "norm_dh", "one_minus_cos_h", "par_rel_h", "orth_rel_h", "t1_h")
    for (name, values), reference in zip(space_metrics(v, dv).items(), names, strict=True):
        torch.testing.assert_close(values, truth[reference], rtol=1e-12, atol=1e-14, msg=name)
