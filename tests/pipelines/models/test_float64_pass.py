"""Passes of a float32 decoder in float64, against an independent float64 model."""

from collections.abc import Callable

import pytest
import torch

from prunescope.pipelines.evaluation.traces.activation_capture import Capture, replay, run_known
from prunescope.pipelines.evaluation.traces.trace_session import _local_shifts
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.float64_pass import float64_norms, in_float64
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.evaluation.traces.float64_reference import Llama64


def test_layers_in_float64_give_the_streams_of_a_float64_model(decoder: Decoder) -> None:
    norms, tokens = float64_norms(decoder), probe_tokens(decoder, 12)
    assert norms is not None
    assert len(norms) == 2 * len(decoder.layers) + 1
    model = Llama64.load(decoder.folder)
    variant = prune(decoder, parse_recipe("magnitude-50"))
    changed = {name: model.weights[f"{name}.weight"] * mask for name, mask in variant.masks.items()}
    with apply_variant(decoder, variant):
        capture = run_known(decoder, tokens, 0, by_token_from=None, keep_calls=False, norms=norms)
    for label, (before, after) in model.streams(tokens[0].tolist(), changed).items():
        # Rotary angles are float32 on both sides; a pass in float32 is off by 2e-7 to 9e-7.
        added = after - before
        assert (capture.added[label] - added).norm() <= 1e-7 * added.norm(), label
    assert all(parameter.dtype == torch.float32 for parameter in decoder.model.parameters())


def capture_of(decoder: Decoder) -> Capture:
    norms, tokens = float64_norms(decoder), probe_tokens(decoder, 12)
    assert norms is not None
    return run_known(decoder, tokens, 0, by_token_from=None, keep_calls=True, norms=norms)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "falcon-sequential", "mixtral", "qwen3"])
def test_a_recorded_call_run_again_in_float64_gives_the_same_contribution(
    architecture: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    capture = capture_of(decoder)
    for sublayer in decoder.sublayers:
        again = replay(sublayer, capture.calls[sublayer.label], {}, 0, capture.norms)
        assert torch.equal(again, capture.whole[sublayer.label]), sublayer.label
    assert all(parameter.dtype == torch.float32 for parameter in decoder.model.parameters())
    assert not any("forward" in vars(module) for module in decoder.model.modules())


def test_the_local_shift_of_a_sublayer_is_that_of_a_float64_model(decoder: Decoder) -> None:
    capture, model = capture_of(decoder), Llama64.load(decoder.folder)
    # Few weights are masked, so that the shift is a small part of the contribution.
    variant = prune(decoder, parse_recipe("magnitude-10"))
    changed = {name: model.weights[f"{name}.weight"] * mask for name, mask in variant.masks.items()}
    streams = model.streams(probe_tokens(decoder, 12)[0].tolist())
    for sublayer in decoder.sublayers:
        label, (before, after) = sublayer.label, streams[sublayer.label]
        [shift] = _local_shifts(sublayer, variant, [(capture, 0)])
        exact = model.sublayer(before, label, changed, set()) - (after - before)
        assert shift.dtype == torch.float32
        assert (shift.double() - exact).norm() <= 1e-7 * exact.norm(), label


def test_an_interrupted_pass_leaves_weights_in_float32(decoder: Decoder) -> None:
    norms = float64_norms(decoder)
    assert norms is not None

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handle = decoder.layers[1].module.mlp.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), in_float64(decoder, norms):
        decoder.hidden(probe_tokens(decoder, 4))
    handle.remove()
    assert all(parameter.dtype == torch.float32 for parameter in decoder.model.parameters())
    assert not any("forward" in vars(module) for module in decoder.model.modules())


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "falcon-sequential", "mixtral"])
def test_other_architectures_compute_in_float64_too(architecture: str, tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder(architecture)
    norms, tokens = float64_norms(decoder), probe_tokens(decoder, 12)
    assert norms is not None
    usual = decoder.hidden(tokens)
    with in_float64(decoder, norms):
        exact = decoder.hidden(tokens)
    torch.testing.assert_close(exact.float(), usual, rtol=0, atol=1e-4)


def test_a_model_in_bfloat16_keeps_its_type(decoder: Decoder) -> None:
    with apply_variant(decoder, prune(decoder, parse_recipe("noise-bfloat16"))):
        assert float64_norms(decoder) is None
