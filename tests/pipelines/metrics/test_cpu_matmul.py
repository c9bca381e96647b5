"""Equality of the fast product and torch's."""

import pytest
import torch
from torch.nn import functional

from prunescope.pipelines.metrics import cpu_matmul
from prunescope.pipelines.metrics.cpu_matmul import product


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 15, 16, 40])
@pytest.mark.parametrize("is_biased", [False, True])
@pytest.mark.parametrize("is_strided", [False, True])
@pytest.mark.parametrize("maker", ["GenuineIntel", "AuthenticAMD", ""])
def test_the_product_equals_linear_within_float32_rounding(
    rows: int, is_biased: bool, is_strided: bool, maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_matmul, "vendor", lambda: maker)
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 2, 48, generator=generator)[:, -1] if is_strided else torch.randn(rows, 48)
    weight = torch.randn(48, 70, generator=generator).T if is_strided else torch.randn(70, 48)
    bias = torch.randn(70) if is_biased else None
    truth = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    found = product(x, weight, bias)
    assert found.is_contiguous()
    assert ((found - truth).norm() / truth.norm()) < 3e-7
    assert torch.equal(found, product(x, weight, bias))


@pytest.mark.parametrize("shape", [(1, 1, 48), (3, 1, 48), (2, 5, 48), (48,), (0, 48)])
def test_the_product_keeps_all_leading_dimensions(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape), torch.randn(7, 48)
    torch.testing.assert_close(product(x, weight), functional.linear(x, weight))
