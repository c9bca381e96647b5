"""Replacement of forwards of linear modules, and their restoration."""

import pytest
import torch
from torch import nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import quick_linears
from prunescope.pipelines.pruning.variant_patching import swap_weights


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


def test_a_quick_model_gives_the_same_states_and_reads_swapped_weights(decoder: Decoder) -> None:
    tokens = torch.tensor([[5, 77, 9, 120], [8, 61, 2, 17]])
    sublayer = decoder.layers[1].mlp
    other = {name: matrix.stored * 0.5 for name, matrix in sublayer.matrices.items()}
    for weights in ({}, other):
        with swap_weights(sublayer, weights), torch.inference_mode():
            truth = decoder.hidden(tokens)
            with quick_linears(decoder.model):
                torch.testing.assert_close(decoder.hidden(tokens), truth, rtol=1e-4, atol=1e-5)
            assert torch.equal(decoder.hidden(tokens), truth)
