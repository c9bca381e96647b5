"""Scope isolated against copies of the model in which one sublayer alone is replaced, in float64."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.models.decoder import Decoder, Sublayer, weight_matrix
from pipelines.models.load import load_decoder
from pipelines.pruning.variant import Variant, applied
from pipelines.traces.capture import Capture, replay, run_known
from pipelines.traces.isolated import Isolation
from tests.tiny_models import ARCHITECTURES, save_tiny

TOKENS = torch.tensor([[5, 77, 9, 120, 5, 33, 250, 8, 8, 61, 2, 17, 4, 99, 180, 41, 7, 63, 12, 11]])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load_decoder(save_tiny(tmp_path_factory.mktemp("models") / request.param, request.param))


def masks_of(decoder: Decoder) -> Variant:
    """Every matrix loses a random half."""
    generator = torch.Generator().manual_seed(1)
    return Variant(
        masks={
            name: torch.rand(weight_matrix(linear).shape, generator=generator) < 0.5
            for sublayer in decoder.sublayers
            for name, linear in sublayer.linears.items()
        }
    )


def dense_pass(decoder: Decoder, tokens: Tensor) -> Capture:
    return run_known(decoder, tokens, 0, by_token_from=None, keep_calls=True)


def local_shifts(decoder: Decoder, dense: Capture, variant: Variant) -> dict[str, Tensor]:
    return {
        sublayer.label: -dense.whole[sublayer.label]
        if sublayer.label in variant.dropped
        else replay(sublayer, dense.calls[sublayer.label], variant.weights(sublayer), 0) - dense.whole[sublayer.label]
        for sublayer in decoder.sublayers
        if variant.changes(sublayer)
    }


def in_float64(decoder: Decoder) -> Decoder:
    """The same decoder in float64; its modules are found by their names, because the copy has modules of its own."""
    model = copy.deepcopy(decoder.model).double()
    twin = dict(zip(decoder.model.modules(), model.modules(), strict=True))

    def of(sublayer: Sublayer) -> Sublayer:
        linears = {name: twin[linear] for name, linear in sublayer.linears.items()}
        return replace(
            sublayer, mixer=twin[sublayer.mixer], contribution=twin[sublayer.contribution], linears=linears
        )

    layers = tuple(
        replace(layer, module=twin[layer.module], attn=of(layer.attn), mlp=of(layer.mlp)) for layer in decoder.layers
    )
    trunk, norm = twin[decoder.trunk], twin[decoder.final_norm]
    return replace(decoder, model=model, trunk=trunk, final_norm=norm, layers=layers, dtype=torch.float64)


def final_stream(decoder: Decoder, tokens: Tensor) -> Tensor:
    """What the final norm reads."""
    streams: list[Tensor] = []
    handle = decoder.final_norm.register_forward_pre_hook(lambda _, args: streams.append(args[0][0]))
    decoder.hidden(tokens)
    handle.remove()
    return streams[0]


def truths(decoder: Decoder, tokens: Tensor, variant: Variant) -> dict[str, Tensor]:
    """The final stream of a float64 model with one sublayer changed, minus the dense one's, sublayer by sublayer."""
    exact = in_float64(decoder)
    before = final_stream(exact, tokens)
    found = {}
    for sublayer in exact.sublayers:
        if variant.changes(sublayer):
            only = Variant(
                masks={name: mask for name, mask in variant.masks.items() if name in sublayer.linears},
                dropped=tuple(label for label in variant.dropped if label == sublayer.label),
            )
            with applied(exact, only):
                found[sublayer.label] = final_stream(exact, tokens) - before
    return found


def assert_equal(found: Mapping[str, Tensor], truth: Mapping[str, Tensor], allowed: float = 2e-5) -> None:
    assert set(found) == set(truth)
    for label, shift in found.items():
        error = (shift.double() - truth[label]).norm(dim=-1) / truth[label].norm(dim=-1)
        assert (error < allowed).all(), f"{label}: off by {float(error.max()):.1e}"


@pytest.mark.parametrize("length", [1, 20])
def test_isolated_equals_a_model_in_which_only_that_sublayer_is_pruned(decoder: Decoder, length: int) -> None:
    tokens, variant = TOKENS[:, :length], masks_of(decoder)
    dense = dense_pass(decoder, tokens)
    found = Isolation(decoder).shifts(dense, local_shifts(decoder, dense, variant))
    assert_equal(found, truths(decoder, tokens, variant))
