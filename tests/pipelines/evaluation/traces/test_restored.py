"""Scope restored against copies of the model in which all sublayers but one are changed, in float64."""

from dataclasses import replace

import pytest
import torch

from prunescope.pipelines.evaluation.traces.isolated import IsolatedEffect, restoring_shifts
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from tests.pipelines.evaluation.traces.test_isolated import TOKENS, assert_equal, final_stream, in_float64, masks_of
from tests.pipelines.evaluation.traces.test_session import study, variant_of
from tests.pipelines.models.reference_models import write_masks, write_zeros


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
