"""Angles and parts of a shift where 1 − cos computed by subtraction would lose all digits."""

import math

import numpy as np
import pytest
import torch

from prunescope.pipelines.metrics.vector_metrics import space_metrics
from tests.pipelines.metrics.reference import space_reference


@pytest.mark.parametrize("angle", [1e-9, 1e-6, 1e-4, 0.1, 1.0, math.pi / 2, 3.0])
def test_a_rotation_gives_its_own_angle_down_to_the_smallest(angle):
    # A shift of (cos φ − 1, sin φ), with cos φ − 1 formed as −2 sin²(φ/2).
    v = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    defect = 2 * math.sin(angle / 2) ** 2
    measured = space_metrics(v, torch.tensor([[-defect, math.sin(angle)]], dtype=torch.float64))
    assert measured["one_minus_cos_h"].item() == pytest.approx(defect, rel=1e-12)
    assert measured["par_rel_h"].item() == pytest.approx(-defect, rel=1e-12)
    assert measured["t1_h"].item() == pytest.approx(math.sin(angle) ** 2 / 2, rel=1e-12)


def test_a_shift_along_the_vector_has_no_angle_unless_it_reverses_it():
    v = torch.tensor([[1.0, 2.0, -2.0]])
    assert space_metrics(v, 5 * v)["one_minus_cos_h"].item() == 0
    assert space_metrics(v, -2 * v)["one_minus_cos_h"].item() == 2
    assert np.isnan(space_metrics(v, -v)["one_minus_cos_h"]).all()


def test_the_parts_equal_the_plain_definition():
    generator = torch.Generator().manual_seed(0)
    v, dv = torch.randn(20, 30, generator=generator), torch.randn(20, 30, generator=generator)
    truth = space_reference(v, v.double() + dv.double(), "h")
    for name, values in space_metrics(v, dv).items():
        np.testing.assert_allclose(values, truth[name].numpy(), rtol=1e-12, atol=1e-14, err_msg=name)
