"""Scopes isolated and restored against float64 copies of the model in which one sublayer, or all but one, change."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.traces.activation_capture import Capture, replay, run_known
from prunescope.pipelines.evaluation.traces.isolated import IsolatedEffect, restoring_shifts
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import first_tensor, hooks
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from tests.pipelines.evaluation.traces.test_session import study, variant_of
from tests.pipelines.models.reference_models import copy_of, write_masks, write_zeros
from tests.tiny_models import ARCHITECTURES

TOKENS = torch.tensor([[5, 77, 9, 120, 5, 33, 250, 8, 8, 61, 2, 17, 4, 99, 180, 41, 7, 63, 12, 11]])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def one_of_few(request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder(request.param)


def masks_of(decoder: Decoder) -> Variant:
    """Mask a random half of every matrix."""
    generator = torch.Generator().manual_seed(1)
    return Variant(
        {
            name: WeightDelta.masked(torch.rand(matrix.weight.shape, generator=generator) < 0.5)
            for sublayer in decoder.sublayers
            for name, matrix in sublayer.matrices.items()
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
        if variant.changed(sublayer)
    }


def in_float64(decoder: Decoder) -> Decoder:
    """Return a copy with its own modules."""
    copied = copy_of(decoder)
    copied.model.double()
    return replace(copied, dtype=torch.float64)


def final_stream(decoder: Decoder, tokens: Tensor) -> Tensor:
    streams: list[Tensor] = []
    top = decoder.layers[-1].module
    with hooks(top.register_forward_hook(lambda _, args, output: streams.append(first_tensor(output)[0]))):
        decoder.hidden(tokens)
    return streams[0]


def isolated(effect: IsolatedEffect, dense: Capture, moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swap every sublayer once."""
    shifts = effect.shifts(dense, {(label, "pruned"): move for label, move in moved.items()})
    return {label: shift for (label, _), shift in shifts.items()}


def truths(decoder: Decoder, tokens: Tensor, variant: Variant) -> dict[str, Tensor]:
    """Return, by sublayer, the final stream of a float64 model with that sublayer changed, minus the dense one's."""
    before = final_stream(in_float64(decoder), tokens)
    found = {}
    for sublayer in decoder.sublayers:
        if variant.changed(sublayer):
            other = in_float64(decoder)
            if sublayer.label in variant.dropped:
                write_zeros(other, {sublayer.label})
            else:
                write_masks(other, variant, set(sublayer.matrices))
            found[sublayer.label] = final_stream(other, tokens) - before
    return found


def assert_equal(found: Mapping[str, Tensor], truth: Mapping[str, Tensor], allowed: float = 5e-5) -> None:
    assert set(found) == set(truth)
    for label, shift in found.items():
        error = (shift.double() - truth[label]).norm(dim=-1) / truth[label].norm(dim=-1)
        assert (error < allowed).all(), f"{label}: off by {float(error.max()):.1e}"


@pytest.mark.third(1)
@pytest.mark.parametrize("length", [1, 20])
def test_isolated_rows_equal_a_model_with_one_pruned_sublayer(each_decoder: Decoder, length: int) -> None:
    tokens, variant = TOKENS[:, :length], masks_of(each_decoder)
    dense = dense_pass(each_decoder, tokens)
    found = isolated(IsolatedEffect(each_decoder), dense, local_shifts(each_decoder, dense, variant))
    assert_equal(found, truths(each_decoder, tokens, variant))


@pytest.mark.third(0)
@pytest.mark.parametrize("dropped", [("attn.0", "mlp.0", "mlp.1"), ("attn.1", "attn.2", "mlp.2")])
def test_isolated_drops_equal_models_without_that_sublayer(each_decoder: Decoder, dropped: tuple[str, ...]) -> None:
    """Drop some sublayers and mask the others of the same layers."""
    variant = replace(masks_of(each_decoder), dropped=dropped)
    dense = dense_pass(each_decoder, TOKENS)
    found = isolated(IsolatedEffect(each_decoder), dense, local_shifts(each_decoder, dense, variant))
    assert_equal(found, truths(each_decoder, TOKENS, variant))


def test_the_last_sublayers_isolated_shift_is_its_local_one(one_of_few: Decoder) -> None:
    dense = dense_pass(one_of_few, TOKENS)
    moved = local_shifts(one_of_few, dense, masks_of(one_of_few))
    found = isolated(IsolatedEffect(one_of_few), dense, moved)
    top = one_of_few.layers[-1]
    assert torch.equal(found[top.mlp.label], moved[top.mlp.label])
    assert torch.equal(found[top.attn.label], moved[top.attn.label]) == top.is_parallel


def test_the_only_changed_sublayers_isolated_shift_is_the_propagated_one(one_of_few: Decoder) -> None:
    dense, whole = dense_pass(one_of_few, TOKENS), masks_of(one_of_few)
    for sublayer in (one_of_few.layers[0].attn, one_of_few.layers[1].mlp):
        only = Variant({name: WeightDelta.masked(whole.masks[name]) for name in sublayer.matrices})
        with apply_variant(one_of_few, only):
            pruned = dense_pass(one_of_few, TOKENS)
        propagated = sum(pruned.whole[s.label].double() - dense.whole[s.label].double() for s in one_of_few.sublayers)
        found = isolated(IsolatedEffect(one_of_few), dense, local_shifts(one_of_few, dense, only))
        assert_equal(found, {sublayer.label: propagated})


def test_chunks_of_any_size_give_equal_shifts_and_leave_no_hooks(one_of_few: Decoder) -> None:
    dense = dense_pass(one_of_few, TOKENS)
    moved = local_shifts(one_of_few, dense, masks_of(one_of_few))
    whole = isolated(IsolatedEffect(one_of_few), dense, moved)
    for rows in (1, 60):
        found = isolated(IsolatedEffect(one_of_few, rows), dense, moved)
        for label, shift in whole.items():
            torch.testing.assert_close(found[label], shift, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in one_of_few.model.modules())


def test_an_unchanged_sublayer_has_exactly_zero_beside_changed_ones(decoder: Decoder) -> None:
    dense = dense_pass(decoder, TOKENS)
    moved = local_shifts(decoder, dense, masks_of(decoder))
    still = moved | {"attn.1": torch.zeros_like(moved["attn.1"])}
    found = isolated(IsolatedEffect(decoder), dense, still)
    assert not found["attn.1"].any()
    assert all(found[label].any() for label in moved if label != "attn.1")


def test_a_shift_below_the_models_rounding_is_preserved(decoder: Decoder) -> None:
    """Compare with the dense contributions, which equal those of the moved stream bit for bit."""
    for tokens in (TOKENS, TOKENS[:, :1]):
        dense = dense_pass(decoder, tokens)
        moved = {s.label: torch.full_like(dense.whole[s.label], 1e-20) for s in decoder.sublayers}
        for label, shift in isolated(IsolatedEffect(decoder), dense, moved).items():
            assert torch.equal(shift, moved[label]), label


def test_alibi_per_entry_and_head_cannot_be_batched(tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder("bloom")
    dense, isolation = dense_pass(decoder, TOKENS), IsolatedEffect(decoder)
    isolated(isolation, dense, local_shifts(decoder, dense, masks_of(decoder)))
    assert isolation._can_batch == {0: False, 1: False, 2: False}


class OneByOne(torch.nn.Module):
    """A layer that cannot run a batch: it raises, or mixes the entries."""

    def __init__(self, inner: torch.nn.Module, *, refuses: bool) -> None:
        super().__init__()
        self.inner, self.refuses = inner, refuses

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        if len(hidden_states) > 1 and self.refuses:
            raise RuntimeError("The size of tensor a must match the size of tensor b")
        return self.inner(hidden_states + hidden_states[:1] - hidden_states[-1:], *args, **kwargs)


@pytest.mark.parametrize("refuses", [True, False])
def test_a_layer_that_cannot_be_batched_runs_entry_by_entry(tiny_folder: Path, refuses: bool) -> None:
    llama = load_decoder(tiny_folder)
    variant = masks_of(llama)
    dense = dense_pass(llama, TOKENS)
    expected = isolated(IsolatedEffect(llama), dense, local_shifts(llama, dense, variant))
    stack = llama.trunk.layers
    stack[1] = OneByOne(stack[1], refuses=refuses)
    stack[1].attention_type = "full_attention"
    layers = (llama.layers[0], replace(llama.layers[1], module=stack[1]), llama.layers[2])
    odd = replace(llama, layers=layers)
    dense = dense_pass(odd, TOKENS)
    found = isolated(IsolatedEffect(odd), dense, local_shifts(odd, dense, variant))
    for label, shift in expected.items():
        torch.testing.assert_close(found[label], shift, rtol=1e-4, atol=1e-5)


def test_a_repeat_that_is_off_by_more_than_rounding_is_refused(decoder: Decoder) -> None:
    dense = dense_pass(decoder, TOKENS)
    dense.whole["mlp.1"] = dense.whole["mlp.1"] * (1 + 2e-5)
    with pytest.raises(ComputationError, match=r"model\.layers\.1\.mlp: called again on the same stream"):
        isolated(IsolatedEffect(decoder), dense, local_shifts(decoder, dense, masks_of(decoder)))


def test_a_repeat_may_differ_by_the_rounding_of_the_models_own_type(tiny_folder: Path) -> None:
    decoder = load_decoder(tiny_folder, "bfloat16")
    dense = dense_pass(decoder, TOKENS)
    moved = local_shifts(decoder, dense, masks_of(decoder))
    truth = dense.whole["mlp.1"]
    dense.whole["mlp.1"] = truth * 1.01
    isolated(IsolatedEffect(decoder), dense, moved)
    dense.whole["mlp.1"] = truth * 1.1
    with pytest.raises(ComputationError, match="called again on the same stream"):
        isolated(IsolatedEffect(decoder), dense, moved)


def test_measured_positions_are_the_end_of_the_whole_contributions(decoder: Decoder) -> None:
    for by_token_from in (None, 4):
        capture = run_known(decoder, TOKENS, 7, by_token_from=by_token_from, keep_calls=True)
        for label, states in capture.added.items():
            assert torch.equal(states, capture.whole[label][7:])
            assert len(capture.whole[label]) == TOKENS.shape[1]


def variant_in_float64(decoder: Decoder, variant: Variant, *, but: str = "") -> torch.Tensor:
    """Return the final stream of a float64 copy with the variant's sublayers, one of them dense."""
    other = in_float64(decoder)
    changed = [sublayer for sublayer in decoder.sublayers if sublayer.label != but]
    write_masks(other, variant, {name for s in changed if s.label not in variant.dropped for name in s.matrices})
    write_zeros(other, {sublayer.label for sublayer in changed} & set(variant.dropped))
    return final_stream(other, TOKENS)


@pytest.mark.third(2)
@pytest.mark.parametrize("dropped", [(), ("attn.0", "mlp.1", "attn.2")])
def test_a_restored_sublayer_equals_a_copy_of_the_variant_with_that_sublayer_dense(
    each_decoder: Decoder, dropped: tuple[str, ...]
) -> None:
    variant = replace(masks_of(each_decoder), dropped=dropped)
    found = restoring_shifts(each_decoder, IsolatedEffect(each_decoder), variant, TOKENS)
    whole = variant_in_float64(each_decoder, variant)
    truths = {
        sublayer.label: variant_in_float64(each_decoder, variant, but=sublayer.label) - whole
        for sublayer in each_decoder.sublayers
    }
    assert_equal(found, truths)


@pytest.mark.parametrize("name", ["wanda-50", "attn-drop-1", "block-drop-1"])
@pytest.mark.parametrize("measure", [{}, {"cache": True}, {"positions": "every", "layer_prompts": 1}])
def test_restored_rows_equal_the_propagated_rows_of_the_variant_without_that_change(
    decoder: Decoder, name: str, measure: dict[str, object]
) -> None:
    session = TraceSession(decoder, "tiny", study(scopes=("propagated", "restored"), keep_states=True, **measure))
    variant = variant_of(decoder, name)
    tables = session.trace(name, variant)
    rows = tables["layer_transitions"].filter(scope="restored")
    changed = [sublayer for sublayer in decoder.sublayers if variant.changed(sublayer)]
    for restored in (rows, tables["hidden_states"].filter(scope="restored")):
        assert set(restored.select("layer", "sublayer").unique().iter_rows()) == {(s.layer, s.kind) for s in changed}
    for sublayer in changed:
        other = Variant(
            {key: change for key, change in variant.changes.items() if key not in sublayer.matrices},
            dropped=tuple(label for label in variant.dropped if label != sublayer.label),
        )
        whole = session.trace(name, other)["layer_transitions"].filter(scope="propagated", layer=2, sublayer="mlp")
        own = rows.filter(layer=sublayer.layer, sublayer=sublayer.kind)
        assert own.select("prompt_id", "position", "lens").equals(whole.select("prompt_id", "position", "lens"))
        for column, atol in {"kl_dense_pruned_nats": 1e-8, "norm_dh": 1e-5, "total_variation": 1e-6}.items():
            torch.testing.assert_close(own[column].to_torch(), whole[column].to_torch(), rtol=2e-3, atol=atol)


@pytest.mark.parametrize("kind", ["bfloat16", "batch"])
def test_rounding_is_restored_one_sublayer_at_a_time(decoder: Decoder, kind: str) -> None:
    rows = TraceSession(decoder, "tiny", study(scopes=("propagated", "restored"))).trace(kind, Variant(noise=kind))
    rows = rows["layer_transitions"].filter(lens="normed")
    whole = rows.filter(scope="propagated", layer=2, sublayer="mlp")["kl_dense_pruned_nats"].mean()
    restored = rows.filter(scope="restored")
    assert restored.select("layer", "sublayer").n_unique() == len(list(decoder.sublayers))
    kl = restored["kl_dense_pruned_nats"].mean()
    assert 0 < kl < 3 * whole


def test_the_dense_model_has_zeros_for_every_sublayer(decoder: Decoder) -> None:
    assert restoring_shifts(decoder, IsolatedEffect(decoder), Variant(), TOKENS) == {}
    rows = TraceSession(decoder, "tiny", study(scopes=("restored",))).trace("dense", Variant())["layer_transitions"]
    assert rows.select("layer", "sublayer").n_unique() == len(list(decoder.sublayers))
    assert rows["kl_dense_pruned_nats"].max() == 0
