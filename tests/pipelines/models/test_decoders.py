"""Tests on every form of decoder: its parts rebuild the model, and a variant equals a pruned copy."""

from collections.abc import Callable
from pathlib import Path

import polars.selectors as cs
import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.traces.activation_capture import replay, run_known
from prunescope.pipelines.evaluation.traces.decoding import decode
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.meta_model import load_meta_model
from prunescope.pipelines.models.module_calls import first_tensor, hooks
from prunescope.pipelines.models.token_cache import KeyValues
from prunescope.pipelines.planning.preflight import unmatched
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibrate
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.pipelines.models.low_memory import computed
from tests.pipelines.models.reference_models import copy_of, save_massive, write_masks, write_zeros
from tests.pipelines.tiny_study import study_of
from tests.tiny_models import SHORT_TEXT, save_tiny

TOKENS = torch.tensor([[5, 77, 9, 120, 5, 33, 250, 8, 8, 61, 2, 17, 4, 99, 180, 41]])
# Models whose cached pass in transformers differs from the uncached one, as the check at load time finds.
WITHOUT_CACHE = {"bamba"}
PARALLEL = {"phi", "gpt_neox", "gptj", "falcon", "falcon-old", "stablelm-parallel", "cohere", "cohere2"}


@pytest.fixture(scope="module")
def name(each_decoder: Decoder) -> str:
    return each_decoder.folder.name


@pytest.fixture(scope="module")
def variant(each_decoder: Decoder) -> Variant:
    return prune(each_decoder, parse_recipe("magnitude-50"))


def close(found: Tensor, truth: Tensor, tolerance: float = 2e-5) -> None:
    """Assert equality up to rounding, relative to the longest row: contributions may have rows near zero."""
    distance = (found.double() - truth.double()).norm(dim=-1).max()
    assert distance <= tolerance * truth.double().norm(dim=-1).max()


def logits(decoder: Decoder) -> Tensor:
    with torch.no_grad():
        return decoder.model(input_ids=TOKENS, use_cache=False).logits[0]


def layer_outputs(decoder: Decoder, tokens: Tensor = TOKENS) -> list[Tensor]:
    outputs: list[Tensor] = []
    handles = [
        layer.module.register_forward_hook(lambda _, args, output: outputs.append(first_tensor(output)[0]))
        for layer in decoder.layers
    ]
    with hooks(*handles):
        decoder.hidden(tokens)
    return outputs


def added_by(decoder: Decoder) -> dict[str, Tensor]:
    return run_known(decoder, TOKENS, 0, by_token_from=None, keep_calls=False).added


@pytest.mark.third(2)
def test_streams_contributions_norm_and_head_rebuild_the_model(each_decoder: Decoder, name: str) -> None:
    capture = run_known(each_decoder, TOKENS, 0, by_token_from=None, keep_calls=False)
    outputs = layer_outputs(each_decoder)
    for index, (layer, output) in enumerate(zip(each_decoder.layers, outputs, strict=True)):
        rebuilt = capture.streams[index].double() + sum(capture.added[s.label].double() for s in layer.sublayers)
        torch.testing.assert_close(rebuilt.float(), output, rtol=1e-5, atol=1e-5 * float(output.abs().max()))
        assert layer.is_parallel == (name in PARALLEL)
    close(each_decoder.head.logits(outputs[-1]), logits(each_decoder))


@pytest.mark.third(0)
def test_a_local_swap_equals_a_copy_with_one_pruned_sublayer(each_decoder: Decoder, variant: Variant) -> None:
    calls = run_known(each_decoder, TOKENS, 0, by_token_from=None, keep_calls=True).calls
    for each in (*each_decoder.layers[0].sublayers, *each_decoder.layers[1].sublayers):
        copied = copy_of(each_decoder)
        write_masks(copied, variant, set(each.matrices))
        truth = added_by(copied)[each.label]
        found = replay(each, calls[each.label], variant.weights(each), 0)
        close(found, truth)
        assert not torch.allclose(found, added_by(each_decoder)[each.label], rtol=1e-3)


@pytest.mark.third(1)
def test_a_variant_equals_a_pruned_copy_and_restores_the_dense_model(each_decoder: Decoder, variant: Variant) -> None:
    before = logits(each_decoder)
    copied = copy_of(each_decoder)
    write_masks(copied, variant, set(variant.masks))
    with apply_variant(each_decoder, variant):
        close(logits(each_decoder), logits(copied))
    assert torch.equal(logits(each_decoder), before)


@pytest.mark.third(2)
def test_a_dropped_sublayer_equals_one_with_zero_weights(each_decoder: Decoder) -> None:
    for labels in ({"attn.0"}, {"mlp.1"}, {"attn.1", "mlp.1"}):
        copied = copy_of(each_decoder)
        write_zeros(copied, labels)
        with apply_variant(each_decoder, Variant(dropped=tuple(labels)), skips=False):
            close(logits(each_decoder), logits(copied))
            added, outputs = added_by(each_decoder), layer_outputs(each_decoder)
        assert not any(added[label].any() for label in labels)
    assert torch.equal(outputs[1], outputs[0])
    assert not torch.allclose(outputs[1], layer_outputs(each_decoder)[1])


@pytest.mark.third(0)
def test_a_moved_contribution_moves_the_stream_equally(each_decoder: Decoder) -> None:
    dense = layer_outputs(each_decoder)[-1]
    generator = torch.Generator().manual_seed(1)
    move = torch.randn(dense.shape, generator=generator) * float(dense.std())
    with hooks(*each_decoder.layers[-1].mlp.watch(lambda added: added + move)):
        close(layer_outputs(each_decoder)[-1], dense + move)
    # The last layer's attention, its MLP silent: two mixers side by side move by one shift.
    with apply_variant(each_decoder, Variant(dropped=(each_decoder.layers[-1].mlp.label,))):
        dense = layer_outputs(each_decoder)[-1]
        with hooks(*each_decoder.layers[-1].attn.watch(lambda added: added + move)):
            close(layer_outputs(each_decoder)[-1], dense + move)


def test_the_cache_changes_no_result_or_is_refused(each_decoder: Decoder, name: str, variant: Variant) -> None:
    if name in WITHOUT_CACHE:
        with pytest.raises(InputError, match=r"measure\.cache: \w+: model\.layers\.1\.self_attn adds something else"):
            each_decoder.new_cache()
        return
    whole = run_known(each_decoder, TOKENS, 0, by_token_from=None, keep_calls=True)
    by_token = run_known(each_decoder, TOKENS, 0, by_token_from=7, keep_calls=True)
    for each in each_decoder.sublayers:
        close(by_token.added[each.label], whole.added[each.label])
    for each in each_decoder.layers[1].sublayers:
        weights = variant.weights(each)
        swaps = [replay(each, run.calls[each.label], weights, 0) for run in (by_token, whole)]
        close(*swaps)
    with apply_variant(each_decoder, Variant(variant.changes, dropped=("attn.0", "mlp.2"))):
        by_token = run_known(each_decoder, TOKENS, 0, by_token_from=7, keep_calls=False)
        close(by_token.added["mlp.1"], added_by(each_decoder)["mlp.1"])


@pytest.mark.third(1)
def test_greedy_decoding_equals_the_models_own(each_decoder: Decoder) -> None:
    prompts = [(5, 77, 9, 120, 5), (33, 250)]
    # Two texts of each prompt, which runs once for both.
    texts = decode(each_decoder, prompts, 3, lambda logits, *_: logits.argmax(dim=-1), copies=2)
    for prompt, found, again in zip(prompts, texts[::2], texts[1::2], strict=True):
        assert again.tokens == found.tokens
        tokens = torch.tensor([[*prompt, *found.tokens]])
        with torch.no_grad():
            own = each_decoder.model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
        assert found.tokens == tuple(own.argmax(dim=-1).tolist())
        close(each_decoder.head.logits(found.streams.float()), own, 1e-4)


@pytest.mark.third(1)
def test_a_text_goes_on_from_kept_keys_as_from_its_whole_context(each_decoder: Decoder) -> None:
    def greedy(logits: Tensor, *_: object) -> Tensor:
        return logits.argmax(dim=-1)

    kept: dict[int, KeyValues | None] = {}
    prompts = [(5, 77, 9, 120, 5), (33,), (8, 61, 17)]
    texts = decode(each_decoder, prompts, 4, greedy, copies=2, keep=kept.__setitem__)
    keys_alone = each_decoder.cache_refusal is None and all(
        type(layer).__name__ == "_GrowingLayer" for layer in each_decoder.new_cache().layers
    )
    if not any(kept.values()):  # windows, and states in which keys cannot be told apart
        assert not keys_alone or "recurrent" in each_decoder.folder.name
        return
    assert sorted(kept) == list(range(6))
    # Begun at other steps: after three tokens of the text, after none and after one, each with a token of its own.
    contexts = [(*prompts[n], *texts[2 * n].tokens[:begun], 99) for n, begun in enumerate((3, 0, 1))]
    steps = [1, 4, 3]
    together = decode(each_decoder, contexts, steps, greedy, copies=2, known=[kept[2 * n + 1] for n in range(3)])
    for row, (context, count) in enumerate(zip(contexts, steps, strict=True)):
        (alone,) = decode(each_decoder, [context], count, greedy)
        for found in together[2 * row : 2 * row + 2]:
            assert found.tokens == alone.tokens
            close(found.streams, alone.streams, 1e-4)


def test_magnitude_masks_exactly_half_of_every_matrix_and_expert(each_decoder: Decoder, variant: Variant) -> None:
    matrices = each_decoder.matrices
    assert set(variant.masks) == set(matrices)
    for key, mask in variant.masks.items():
        assert mask.shape == matrices[key].weight.shape
        assert int((~mask).sum()) == round(mask.numel() / 2)
    row = variant_row(each_decoder, "tiny", parse_recipe("magnitude-50"), variant, None, 1, 1.0).row(0, named=True)
    assert row["weights_prunable"] == sum(mask.numel() for mask in variant.masks.values())
    if "experts" in str(list(matrices)):
        assert any(key.endswith("experts.down_proj[3]") or key.endswith("experts.down_proj[1]") for key in matrices)


@pytest.mark.third(2)
@pytest.mark.parametrize(
    "architecture", ["mixtral", "bloom", "falcon_h1", "opt", "massive float32", "massive bfloat16"]
)
@pytest.mark.parametrize("recipe", ["magnitude-50", "block-drop-1"])
def test_traces_end_at_the_output_of_a_pruned_copy(
    architecture: str, recipe: str, tiny_decoder: Callable[[str], Decoder], tmp_path: Path
) -> None:
    is_massive = architecture.startswith("massive")
    dense = load_decoder(save_massive(tmp_path), architecture.split()[1]) if is_massive else tiny_decoder(architecture)
    stats = calibrate(dense, CalibrationSpec(source=SHORT_TEXT, sequences=2, length=16), "tiny")
    pruned = prune(dense, parse_recipe(recipe), stats.activation_stats, stats.block_influence)
    study = study_of(generation={"new_tokens": 3}, measure={"lenses": ["normed"]})
    session = TraceSession(dense, "tiny", study)
    rows = session.trace(recipe, pruned)["layer_transitions"]
    (traced,) = session._prompts
    copied = copy_of(dense)
    write_masks(copied, pruned, set(pruned.masks))
    write_zeros(copied, set(pruned.dropped))
    ends = [layer_outputs(each, traced.tokens)[-1].double() for each in (dense, copied)]
    norms = (dense.head.norm(ends[1].float()) - dense.head.norm(ends[0].float())).norm(dim=-1)
    found = rows.filter(scope="propagated", layer=2, sublayer="mlp").sort("position")
    torch.testing.assert_close(found["norm_dh"].to_torch(), norms[found["position"].to_list()], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_massive_activations_are_calibrated_pruned_and_traced(dtype: str, tmp_path: Path) -> None:
    recipes = ("dense", "sparsegpt-50", "wanda-2of4", "flap-20")
    variants, tables = computed(load_decoder(save_massive(tmp_path), dtype), recipes)
    for name in ("sparsegpt-50", "wanda-2of4"):
        assert all(int(mask.sum()) * 2 == mask.numel() for mask in variants[name].masks.values())
    for name, table in tables.items():
        assert all(is_finite for row in table.select(cs.float().is_finite().all()).rows() for is_finite in row), name


@pytest.mark.parametrize("architecture", ["mixtral", "gpt2", "falcon_h1"])
def test_matrix_names_are_known_before_weights_are_read(tmp_path: Path, architecture: str) -> None:
    folder = save_tiny(tmp_path / "model", architecture)
    names = [name.replace("[", "[[]") for name in load_decoder(folder).matrices]
    recipe = parse_recipe(f"{{name: all, method: magnitude, sparsity: 0.5, modules: {[*names, 'model.nothing']}}}")
    assert unmatched(study_of(recipes=[recipe]), load_meta_model(folder)) == [
        "recipe all: `modules` 'model.nothing' matches no matrix"
    ]
