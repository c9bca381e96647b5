"""Equality of the fast product and torch's, and restoration of a patched model."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from prunescope.pipelines.metrics import cpu_matmul
from prunescope.pipelines.metrics.cpu_matmul import product
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import quick_linears
from prunescope.pipelines.pruning.variant_patching import swap_weights


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


def test_only_plain_float32_modules_are_replaced_and_all_are_restored() -> None:
    class Loud(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    plain, double, loud, taken = nn.Linear(4, 4), nn.Linear(4, 4).double(), Loud(4, 4), nn.Linear(4, 4)
    taken.forward = torch.zeros_like  # type: ignore[method-assign]
    model = nn.ModuleList([plain, double, loud, taken])

    def interrupted() -> None:
        with quick_linears(model):
            assert ["forward" in vars(module) for module in model] == [True, False, False, True]
            assert not taken(torch.ones(4)).any()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ["forward" in vars(module) for module in model] == [False, False, False, True]
    assert not taken(torch.ones(4)).any()


def test_a_quick_model_gives_the_same_states_and_reads_swapped_weights(tiny_folder: Path) -> None:
    decoder = load_decoder(tiny_folder)
    tokens = torch.tensor([[5, 77, 9, 120], [8, 61, 2, 17]])
    sublayer = decoder.layers[1].mlp
    other = {name: matrix.stored * 0.5 for name, matrix in sublayer.matrices.items()}
    for weights in ({}, other):
        with swap_weights([sublayer], weights), torch.inference_mode():
            truth = decoder.hidden(tokens)
            with quick_linears(decoder.model):
                torch.testing.assert_close(decoder.hidden(tokens), truth, rtol=1e-4, atol=1e-5)
            assert torch.equal(decoder.hidden(tokens), truth)
