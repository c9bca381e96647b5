"""Repairs against independent float64 solutions, on captured states of every structure of decoder."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import hooks, stream_of
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning import repair as module
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.model_card import About
from prunescope.pipelines.pruning.methods.regression import ChannelSums, MapSums
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.repair import repair, sequence_divergences, split
from prunescope.pipelines.pruning.variant import Variant, load_variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import ComposedRecipe, changes_matrices, parse_recipe, steps
from prunescope.pipelines.studies import CalibrationSpec
from prunescope.warehouse.quality.checks import violations
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.tables import TABLES
from tests.pipelines.tiny_study import study_of
from tests.tiny_models import SHORT_TEXT

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=8, length=48)
ABOUT = About("tiny", "org/tiny@main", "w" * 64, "mine", "composed", "{}")
# Pre-norm, sandwich norms, parallel, transposed, with its own residual, experts as modules, as stacks and next to a
# shared one, several branches, multipliers of what is added.
STRUCTURES = ["llama", "gemma3_text", "gpt_neox", "gpt2", "bloom", "mixtral"]
OTHERS = ["gpt_oss", "qwen2_moe", "falcon_h1", "granite", "opt", "olmo2", "cohere", "bamba", "qwen3_next"]
EVERY_STRUCTURE = [*STRUCTURES, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS)]
DAMPING = 0.01

Array = NDArray[np.float64]


def tokens_of(decoder: Decoder) -> Tensor:
    return calibration_tokens(decoder.tokenizer, SPEC)


def made(decoder: Decoder, name: str) -> Variant:
    calibrated = calibrate(decoder, SPEC, "tiny")
    return prune(
        decoder, parse_recipe(name), calibrated.activation_stats, calibrated.block_influence, tokens_of(decoder)
    )


def fitted_by(decoder: Decoder, name: str, base: Variant) -> Variant:
    """Return a base repaired by the last part of a recipe's name."""
    return repair(decoder, steps(parse_recipe(name))[-1], Statistics(tokens=tokens_of(decoder)), base)


# -- closed forms ------------------------------------------------------------------------------------------------------


def line(y: Array, target: Array, *, has_bias: bool) -> tuple[float, float]:
    """Return scale and bias of one channel by least squares on rows that the penalty extends."""
    spread = ((y - y.mean() * has_bias) ** 2).sum()
    rows = np.stack([y, np.full_like(y, has_bias)], axis=1)
    rows = np.concatenate([rows, [[np.sqrt(DAMPING * spread), 0]]])
    values = np.concatenate([target, [np.sqrt(DAMPING * spread)]])
    if not has_bias:
        rows = rows[:, :1]
    scale, *bias = np.linalg.lstsq(rows, values, rcond=None)[0]
    return float(scale), float(bias[0]) if bias else 0.0


@pytest.mark.parametrize("has_bias", [True, False])
@given(st.integers(3, 60), st.integers(0, 2**32 - 1))
def test_scales_and_biases_are_those_of_least_squares(has_bias: bool, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    y = random.normal(size=(count, 6)) * np.exp(random.uniform(-3, 3, size=6)) + random.normal(size=6)
    target = y * random.normal(size=6) + random.normal(size=6) + random.normal(size=y.shape)
    sums = ChannelSums()
    for part in np.array_split(np.arange(count), 3):
        sums.update(torch.tensor(y[part]), torch.tensor(target[part] - y[part]))
    scale, bias = sums.solve(DAMPING, has_bias=has_bias)
    truth = np.array([line(y[:, i], target[:, i], has_bias=has_bias) for i in range(6)])
    np.testing.assert_allclose(scale, truth[:, 0], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(bias, truth[:, 1], rtol=1e-6, atol=1e-6 * np.abs(target).max())


def test_a_dead_or_constant_channel_keeps_its_scale_and_is_shifted() -> None:
    y = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 2.0], [0.0, 3.0, 4.0]], dtype=torch.float64) * 1.1
    target = torch.tensor([[1.0, 5.0, 0.0], [2.0, 5.0, 0.0], [6.0, 5.0, 0.0]], dtype=torch.float64)
    sums = ChannelSums()
    sums.update(y, target - y)
    scale, bias = sums.solve(DAMPING, has_bias=True)
    assert scale[:2].tolist() == [1, 1]
    assert bias[:2].tolist() == pytest.approx([3, 1.7])
    # Without a bias the constant channel is scaled, and the dead one still has nothing to scale.
    scale, bias = sums.solve(DAMPING, has_bias=False)
    assert scale[:2].tolist() == pytest.approx([1, 1 + (5 / 3.3 - 1) / 1.01])
    assert not bias.any()


def test_one_token_moves_the_bias_alone() -> None:
    channels, maps = ChannelSums(), MapSums(1)
    y, target = torch.tensor([[2.0, -1.0]], dtype=torch.float64), torch.tensor([[5.0, 0.5]], dtype=torch.float64)
    channels.update(y, target - y)
    scale, bias = channels.solve(DAMPING, has_bias=True)
    assert scale.tolist() == [1, 1]
    assert bias.tolist() == [3, 1.5]
    maps.update(y, target)
    found = maps.solve(DAMPING)
    assert found.reads is None
    assert torch.equal(found.bias, target[0])


def test_sums_that_are_not_finite_are_refused() -> None:
    channels, maps = ChannelSums(), MapSums(1)
    bad = torch.tensor([[torch.nan, 1.0]], dtype=torch.float64)
    channels.update(bad, bad)
    maps.update(bad, bad)
    for solve in (partial(channels.solve, has_bias=True), maps.solve):
        with pytest.raises(ComputationError, match="NaN or infinite"):
            solve(damping=DAMPING)


def low_rank(x: Array, target: Array, rank: int, damping: float = DAMPING) -> tuple[Array, Array]:
    """Return matrix (inputs, outputs) and bias of the best map of a rank, from extended rows by SVD."""
    centred = x - x.mean(axis=0)
    ridge = damping * (centred**2).sum() / x.shape[1]
    rows = np.concatenate([centred, np.sqrt(ridge) * np.eye(x.shape[1])])
    values = np.concatenate([target - target.mean(axis=0), np.zeros((x.shape[1], target.shape[1]))])
    whole = np.linalg.lstsq(rows, values, rcond=None)[0]
    _, _, right = np.linalg.svd(rows @ whole, full_matrices=False)
    matrix = whole @ right[:rank].T @ right[:rank]
    return matrix, target.mean(axis=0) - x.mean(axis=0) @ matrix


@pytest.mark.parametrize("rank", [1, 3, 5, 40])
@pytest.mark.parametrize("count", [4, 7, 200])  # fewer tokens than inputs, too
def test_maps_are_the_best_of_their_rank(rank: int, count: int) -> None:
    random = np.random.default_rng(rank + count)
    x = random.normal(size=(count, 8)) @ random.normal(size=(8, 8)) + 2
    x[:, 3] = 0.25  # constant
    target = x @ random.normal(size=(8, 5)) + random.normal(size=(count, 5))
    sums = MapSums(rank)
    for part in np.array_split(np.arange(count), 2):
        sums.update(torch.tensor(x[part]), torch.tensor(target[part]))
    found = sums.solve(DAMPING)
    assert found.reads.shape == (min(rank, 5), 8)
    matrix, bias = low_rank(x, target, rank)
    np.testing.assert_allclose((found.writes @ found.reads).T, matrix, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-6, atol=1e-8)


# -- the states that are regressed -------------------------------------------------------------------------------------


def captured(decoder: Decoder, variant: Variant, sublayer: Sublayer, tokens: Tensor) -> tuple[Array, Array, Array]:
    """Return the stream before a sublayer, what it reads and what it adds, by a pass of the whole variant."""
    found: dict[str, Tensor] = {}
    layer = decoder.layers[sublayer.layer]
    first = sublayer.parts[0].chain[0]
    handles = [handle for each in layer.sublayers for handle in each.watch(partial(found.__setitem__, each.label))]
    handles += [
        layer.module.register_forward_pre_hook(
            lambda _, args, kwargs: found.__setitem__("stream", stream_of(args, kwargs)), with_kwargs=True
        ),
        first.register_forward_pre_hook(
            lambda _, args, kwargs: found.__setitem__("read", stream_of(args, kwargs)), with_kwargs=True
        ),
    ]
    with apply_variant(decoder, variant, skips=False), hooks(*handles):
        decoder.hidden(tokens)
    stream = found["stream"].double()
    if sublayer is layer.mlp:
        stream = stream + found[layer.attn.label].double()
    flat = (each.reshape(-1, decoder.width).double().numpy() for each in (stream, found["read"], found[sublayer.label]))
    before, read, added = flat
    return before, read, added


def up_to(decoder: Decoder, base: Variant, repaired: Variant, last: Sublayer, *, included: bool) -> Variant:
    """Return the base with the repairs of all sublayers before one, and its own if it is included."""
    labels = [each.label for each in decoder.sublayers]
    chosen = [each for each in decoder.sublayers if each.label in labels[: labels.index(last.label) + included]]
    names = {name for each in chosen for name in (*each.matrices, *each.modules)}
    changes = {name: (repaired if name in names else base).changes[name] for name in repaired.changes if name in names}
    changes |= {name: change for name, change in base.changes.items() if name not in names}
    parameters = dict(base.parameters) | {
        name: value for name, value in repaired.parameters.items() if name.rpartition(".")[0] in names
    }
    substitutes = {
        each.label: repaired.substitutes[each.label] for each in chosen if each.label in repaired.substitutes
    }
    return replace(base, changes=changes, parameters=parameters, substitutes=substitutes)


def changed_and_dropped(decoder: Decoder) -> Variant:
    """Return a variant with half of the weights, without the second attention and the third MLP."""
    half = prune(decoder, parse_recipe("magnitude-50"))
    gone = [decoder.layers[1].attn, decoder.layers[2].mlp]
    return half.without(gone)


@pytest.mark.parametrize("form", ["affine", "rescale", "linear-5"])
@pytest.mark.parametrize("architecture", EVERY_STRUCTURE)
def test_every_sublayer_adds_what_least_squares_on_its_own_states_gives(
    architecture: str, form: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    base = changed_and_dropped(decoder)
    repaired = fitted_by(decoder, f"attn-drop-1+magnitude-50+{form}", base)
    tokens, _, _ = split(tokens_of(decoder))
    unbiased = set(repaired.facts["repair"].get("without_bias", ()))
    assert unbiased == (
        {each.label for each in decoder.sublayers if each.label not in base.dropped and not biased(each)}
        if form != "rescale"
        else set()
    )
    assert_fitted(decoder, base, repaired, form, tokens, unbiased)


def assert_fitted(
    decoder: Decoder, base: Variant, repaired: Variant, form: str, tokens: Tensor, unbiased: Collection[str]
) -> None:
    """Compare what every sublayer adds in a whole pass with a least-squares solution on its own states."""
    for sublayer in decoder.sublayers:
        label = sublayer.label
        dense_before, _, dense_added = captured(decoder, Variant(), sublayer, tokens)
        before, read, y = captured(decoder, up_to(decoder, base, repaired, sublayer, included=False), sublayer, tokens)
        _, _, found = captured(decoder, up_to(decoder, base, repaired, sublayer, included=True), sublayer, tokens)
        target = dense_before + dense_added - before
        if label in base.dropped and form == "linear-5":
            matrix, bias = low_rank(read, target, 5, damping=1)
            expected = read @ matrix + bias
        elif label in base.dropped:
            expected = np.broadcast_to(0 if form == "rescale" else target.mean(axis=0), target.shape)
        else:
            has_bias = form != "rescale" and label not in unbiased
            lines = [line(y[:, i], target[:, i], has_bias=has_bias) for i in range(y.shape[1])]
            scale, bias = np.array(lines).T
            expected = y * scale + bias
        size = np.abs(expected).max() + np.abs(target).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 * size, err_msg=label)


@pytest.mark.parametrize("form", ["affine", "linear-5"])
def test_changed_norms_outside_the_sublayers_are_those_of_the_fit(decoder: Decoder, form: str) -> None:
    half = changed_and_dropped(decoder)
    inside = {name for sublayer in decoder.sublayers for name in sublayer.modules}
    gains = {
        name: (gain * torch.linspace(0.5, 2, decoder.width)).detach()
        for name, gain in decoder.model.named_parameters()
        if name.endswith("layernorm.weight") and name.rpartition(".")[0] not in inside
    }
    assert len(gains) == 2 * len(decoder.layers)
    base = replace(half, parameters=gains)
    repaired = fitted_by(decoder, f"attn-drop-1+magnitude-50+{form}", base)
    assert_fitted(decoder, base, repaired, form, split(tokens_of(decoder))[0], ())


def biased(sublayer: Sublayer) -> bool:
    """Return whether a sublayer has a place for a bias: one matrix without experts, or a norm with a bias behind it."""
    last = sublayer.parts[0].chain[-1]
    is_norm = not any(parameter.dim() > 1 for parameter in last.parameters())
    if is_norm:
        return getattr(last, "bias", None) is not None
    is_mixture = any("expert" in name for name in sublayer.matrices)
    return not is_mixture


@pytest.mark.parametrize("name", ["wanda-2of4", "magnitude-50", "sparsegpt-50", "neurons-25"])
def test_masks_survive_a_repair(decoder: Decoder, name: str) -> None:
    base, repaired = made(decoder, name), made(decoder, f"{name}+affine")
    assert set(base.masks) == set(repaired.masks)
    for matrix, mask in base.masks.items():
        assert torch.equal(repaired.masks[matrix], mask)
        weight = repaired.changes[matrix].weight(decoder.matrices[matrix].weight)
        assert not weight[~mask].any()
    assert repaired.hash != base.hash


def test_codes_stay_codes(decoder: Decoder) -> None:
    base, repaired = made(decoder, "rtn-4bit"), made(decoder, "rtn-4bit+affine")
    for name, change in repaired.changes.items():
        assert change.codes is not None
        assert torch.equal(change.codes.packed, base.changes[name].codes.packed)
        if name.endswith(("o_proj", "down_proj")):
            assert not torch.equal(change.codes.scales, base.changes[name].codes.scales)
    assert variant_row(decoder, "t", parse_recipe("rtn-4bit+affine"), repaired, None, 1, 1.0)["bytes_removed"][0] > 0


@pytest.mark.parametrize("name", ["wanda-50+affine", "attn-drop-1+wanda-50+linear-4", "block-drop-1+affine"])
def test_a_repair_repeats_bit_for_bit_and_its_file_restores_it(decoder: Decoder, tmp_path: Path, name: str) -> None:
    first, again = made(decoder, name), made(decoder, name)
    assert first.hash == again.hash
    assert first.facts == again.facts
    first.save(tmp_path / "v.safetensors", parse_recipe(name), "weights")
    loaded = load_variant(tmp_path / "v.safetensors", "weights")
    assert loaded.facts["repair"] == first.facts["repair"]
    probe = tokens_of(decoder)[:2]
    with apply_variant(decoder, first):
        states = decoder.hidden(probe)
    with apply_variant(decoder, loaded):
        assert torch.equal(decoder.hidden(probe), states)
    with apply_variant(decoder, loaded, max_bytes=0, skips=False):
        torch.testing.assert_close(decoder.hidden(probe), states, rtol=1e-4, atol=1e-4)


def test_nothing_is_repaired_if_nothing_was_broken(decoder: Decoder) -> None:
    assert fitted_by(decoder, "wanda-50+affine", Variant()) == Variant()
    kept = {
        name: WeightDelta.masked(torch.ones(matrix.shape, dtype=torch.bool))
        for name, matrix in decoder.matrices.items()
    }
    same = Variant(kept)
    assert fitted_by(decoder, "wanda-50+affine", same) is same


def test_only_changed_sublayers_are_repaired(decoder: Decoder) -> None:
    base = made(decoder, "{name: some, method: wanda, sparsity: 0.5, modules: ['*.1.mlp.*']}")
    repaired = fitted_by(decoder, "wanda-50+affine", base)
    assert set(repaired.changes) == set(base.changes)
    assert set(repaired.parameters) == {"model.layers.1.mlp.down_proj.bias"}


def test_a_change_of_the_first_matrix_alone_scales_the_last_one(decoder: Decoder) -> None:
    base = made(decoder, "{name: some, method: wanda, sparsity: 0.5, modules: ['*.1.mlp.up_proj']}")
    repaired = fitted_by(decoder, "wanda-50+rescale", base)
    last = "model.layers.1.mlp.down_proj"
    ratio = repaired.changes[last].weight(decoder.matrices[last].weight) / decoder.matrices[last].weight
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-5, atol=0)
    assert repaired.changes[last].mask is None


# -- the check on held-out text ----------------------------------------------------------------------------------------


def test_held_out_sequences_share_no_run_with_fitted_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 300, (12, 600), generator=generator)
    tokens[2, 100:140] = tokens[-1, 500:540]  # overlaps a held-out window
    tokens[3, :15] = tokens[-1, :15]  # too short to matter
    fitted, held_out, reason = split(tokens)
    assert torch.equal(held_out, tokens[-2:])  # 1,024 tokens, rounded up
    assert torch.equal(fitted, tokens[[0, 1, *range(3, 10)]])
    assert reason is None
    tokens[-2, :16] = tokens[-1, -16:]  # the last two are no two independent texts
    assert torch.equal(split(tokens)[1], tokens[[-3, -1]])
    short, rest, _ = split(tokens[:8, :100])
    assert (len(short), len(rest)) == (6, 2)  # a quarter at most
    long, rest, _ = split(tokens.reshape(-1, 1200).repeat(2, 1)[:8] + torch.arange(8)[:, None])
    assert (len(long), len(rest)) == (6, 2)  # one sequence has no interval
    for count in (1, 7):
        alone, none, reason = split(tokens[:count])
        assert torch.equal(alone, tokens[:count])
        assert not len(none)
        assert reason == "fewer than 8 calibration sequences; raise `calibration.sequences`"


def test_sequences_that_overlap_are_fitted_and_not_checked(decoder: Decoder) -> None:
    tokens = tokens_of(decoder)  # two of eight are held out
    base, recipe = made(decoder, "attn-drop-1"), steps(parse_recipe("attn-drop-1+affine"))[-1]
    apart = repair(decoder, recipe, Statistics(tokens=tokens), base).facts["repair"]
    assert (apart["tokens_fitted"], apart["tokens_held_out"]) == (6 * 48, 2 * 48)
    for overlapping in (3, 4):
        tokens[:overlapping, :16] = tokens[-1, :16]
        found = repair(decoder, recipe, Statistics(tokens=tokens), base).facts["repair"]
        if overlapping == 3:  # half of the others remain
            assert (found["tokens_fitted"], found["tokens_held_out"]) == (3 * 48, 2 * 48)
    note = "not checked: the calibration sequences overlap; choose a longer `calibration.source`"
    assert found == {"tokens_fitted": 8 * 48, "tokens_held_out": 0, "note": note}


def test_the_facts_have_the_divergence_of_both_variants(decoder: Decoder) -> None:
    base, repaired = made(decoder, "attn-drop-1"), made(decoder, "attn-drop-1+affine")
    _, held_out, _ = split(tokens_of(decoder))

    def logs(variant: Variant) -> Tensor:
        with torch.inference_mode(), apply_variant(decoder, variant):
            return decoder.model(input_ids=held_out).logits.double().log_softmax(dim=-1)

    dense, *own = map(logs, (Variant(), base, repaired))
    by_sequence = [(dense.exp() * (dense - log)).sum(dim=-1).mean(dim=1).numpy() for log in own]
    truth = [float(each.mean()) for each in by_sequence]
    found = repaired.facts["repair"]
    assert [found["kl_unrepaired_nats"], found["kl_repaired_nats"]] == pytest.approx(truth, rel=1e-4)
    assert found["tokens_held_out"] == held_out.numel()
    assert found["kl_difference_nats"] == pytest.approx(truth[1] - truth[0], rel=1e-3)
    paired = stats.ttest_rel(by_sequence[1], by_sequence[0]).confidence_interval(0.95)
    assert (found["kl_difference_low"], found["kl_difference_high"]) == pytest.approx(tuple(paired), rel=1e-3)


@pytest.mark.parametrize(
    ("repaired_nats", "statement"),
    [
        ([0.3, 0.5], "lowers the KL (0.5 to 0.4 nats, -0.1 [-0.1, -0.1])"),
        ([0.5, 0.7], "does not lower the KL (0.5 to 0.6 nats, +0.1 [+0.1, +0.1])"),
        ([0.4, 0.6], "does not lower the KL (0.5 to 0.5 nats, +0 [+0, +0])"),
        ([0.4, 0.8], "has too little evidence that it lowers the KL (0.5 to 0.6 nats, +0.1 [-1.2, +1.4])"),
        ([0.2, 0.6], "has too little evidence that it lowers the KL (0.5 to 0.4 nats, -0.1 [-1.4, +1.2])"),
    ],
)
def test_a_repair_says_whether_it_helps(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repaired_nats: list[float], statement: str
) -> None:
    found = [np.array([0.4, 0.6]), np.array(repaired_nats)]
    monkeypatch.setattr(module, "sequence_divergences", lambda decoder, variants, tokens: found)
    repaired = made(decoder, "attn-drop-1+affine")
    note = f"on held-out text it {statement}; the recipes before it may have been fitted on this text"
    assert repaired.facts["repair"]["note"] == note
    row = variant_row(decoder, "tiny", parse_recipe("attn-drop-1+affine"), repaired, None, 1, 1.0)
    assert note in row["facts_json"][0]
    assert f"The repair: {note}." in export(decoder, repaired, tmp_path / "out", ABOUT).notes


def test_one_sequence_cannot_be_checked(decoder: Decoder) -> None:
    base, recipe = made(decoder, "attn-drop-1"), steps(parse_recipe("attn-drop-1+affine"))[-1]
    repaired = repair(decoder, recipe, Statistics(tokens=tokens_of(decoder)[:1]), base)
    note = "not checked: fewer than 8 calibration sequences; raise `calibration.sequences`"
    expected = {"tokens_fitted": 48, "tokens_held_out": 0, "note": note}
    assert repaired.facts["repair"] == expected
    with pytest.raises(InputError, match="needs calibration tokens"):
        repair(decoder, recipe, Statistics(), base)


# -- recipes, rows, traces, checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("affine", "affine repairs an earlier recipe; write it after one, as in wanda-50+affine"),
        ("affine+wanda-50", "affine repairs an earlier recipe"),
        ("wanda-50+affine+attn-drop-2", "affine repairs all that is before it; put it last"),
        ("wanda-50+affine+rescale", "put it last"),
        ("attn-drop-2+rescale", "rescale has nothing to scale after drops alone; write affine"),
        ("wanda-50+linear-4", "linear-4 stands in for dropped sublayers, and none is dropped; write affine"),
        ("{name: x, method: composed, parts: [attn-drop-2, {method: repair, bias: false, rank: 2}]}", "needs `bias"),
        ("wanda-50+linear-0", "unknown recipe 'linear-0'"),
        ("dense+affine", "dense prunes nothing"),
    ],
)
def test_repairs_out_of_place_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        parse_recipe(text)


def test_one_repair_twice_is_refused() -> None:
    parts = steps(parse_recipe("wanda-50+affine"))
    with pytest.raises(ValueError, match="put it last"):
        ComposedRecipe(name="twice", parts=(*parts, parts[-1]))


def test_repairs_are_written_as_names_and_as_mappings() -> None:
    name, mapping = (
        parse_recipe("attn-drop-2+linear-8"),
        parse_recipe("{name: mine, method: composed, parts: [attn-drop-2, {method: repair, rank: 8}]}"),
    )
    assert name.hash == mapping.hash
    assert name.hash != parse_recipe("attn-drop-2+affine").hash
    assert name.is_calibrated
    assert name.needs == ("block_influence",)
    assert not changes_matrices(name)
    assert changes_matrices(parse_recipe("wanda-50+affine"))
    own = parse_recipe("{name: m, method: composed, calibration: {seed: 3}, parts: [attn-drop-2, affine]}")
    assert own.calibration is not None


def test_what_stands_in_for_a_drop_is_counted(decoder: Decoder) -> None:
    rows = [
        variant_row(decoder, "tiny", parse_recipe(name), made(decoder, name), None, 1, 1.0)
        for name in ("attn-drop-1", "attn-drop-1+linear-4")
    ]
    added = decoder.width + 2 * 4 * decoder.width
    assert rows[0]["parameters_removed"][0] - rows[1]["parameters_removed"][0] == added
    assert rows[0]["bytes_removed"][0] - rows[1]["bytes_removed"][0] == 2 * added


def test_biases_that_the_dense_modules_lack_are_counted(tiny_decoder: Callable[[str], Decoder]) -> None:
    for architecture, biases in (("llama", 1), ("opt", 0)):  # the second has biases already
        decoder = tiny_decoder(architecture)
        base = prune(decoder, parse_recipe("magnitude-50"))
        repaired = fitted_by(decoder, "magnitude-50+affine", base)
        before, after = (
            variant_row(decoder, "tiny", parse_recipe("magnitude-50"), each, None, 1, 1.0) for each in (base, repaired)
        )
        added = biases * 2 * len(decoder.layers) * decoder.width
        assert before["parameters_removed"][0] - after["parameters_removed"][0] == added
        assert before["bytes_removed"][0] - after["bytes_removed"][0] == 2 * added


def test_a_repair_that_adds_more_than_was_removed_is_a_valid_row(decoder: Decoder) -> None:
    recipe = parse_recipe("rtn-4bit+affine")
    row = variant_row(decoder, "tiny", recipe, made(decoder, recipe.name), None, 1, 1.0)
    assert row["parameters_removed"][0] == -2 * len(decoder.layers) * decoder.width
    assert not violations(TABLES["variants"], to_arrow(TABLES["variants"], row))


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gemma3_text", "gpt_neox"])
def test_a_substitute_is_added_in_every_pass(architecture: str, tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder(architecture)
    base = Variant(dropped=("attn.1", "attn.2", "mlp.2"))
    repaired = fitted_by(decoder, "block-drop-1+linear-4", base)
    probe = tokens_of(decoder)[:1, :20]
    with apply_variant(decoder, repaired, skips=False):
        truth = decoder.hidden(probe)
    with apply_variant(decoder, repaired):
        torch.testing.assert_close(decoder.hidden(probe), truth, rtol=1e-4, atol=1e-4)
        if decoder.cache_refusal is None:
            cache = decoder.new_cache()
            parts = [decoder.hidden(part, cache) for part in probe.split([9, 1, 10], dim=1)]
            torch.testing.assert_close(torch.cat(parts, dim=1), truth, rtol=1e-3, atol=1e-3)
    with apply_variant(decoder, base):
        assert not torch.allclose(decoder.hidden(probe), truth, rtol=1e-3, atol=1e-3)


def test_local_shifts_of_a_dropped_sublayer_hold_its_substitute(decoder: Decoder) -> None:
    repaired = fitted_by(decoder, "attn-drop-1+linear-4", Variant(dropped=("attn.1",)))
    measure = {"scopes": ["local", "isolated", "restored", "propagated"]}
    session = TraceSession(decoder, "tiny", study_of(generation={"new_tokens": 3}, measure=measure))
    rows = session.trace("mine", repaired)["layer_transitions"]
    norms = {
        scope: rows.filter(scope=scope, layer=1, sublayer="attn", lens="raw")["norm_dh"].to_list()
        for scope in ("local", "propagated")
    }
    # Before layer 1 nothing is changed, so the shift of the whole variant is that of this sublayer alone.
    assert norms["local"] == pytest.approx(norms["propagated"], rel=1e-4)
    bare = session.trace("bare", Variant(dropped=("attn.1",)))["layer_transitions"]
    other = bare.filter(scope="local", layer=1, sublayer="attn", lens="raw")["norm_dh"].to_list()
    assert norms["local"] != pytest.approx(other, rel=1e-2)
    # A single change restored leaves the dense model.
    back = rows.filter(scope="restored", layer=1, sublayer="attn")["norm_dh"].to_list()
    assert max(back) < 1e-3 * max(norms["local"])


@pytest.mark.parametrize("name", ["wanda-50+affine", "attn-drop-1+affine", "block-drop-1+wanda-50+affine"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "granite", "bloom"])
def test_a_checkpoint_opens_with_the_repair(
    architecture: str, name: str, tmp_path: Path, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    done = export(decoder, made(decoder, name), tmp_path / "out", ABOUT)  # compares the logits
    assert done.distance < 1e-3
    if "drop" in name:
        assert any("the repair's constant" in note for note in done.notes)


@pytest.mark.parametrize("architecture", ["gemma3_text", "mixtral", "qwen2"])
def test_a_checkpoint_without_place_for_biases_takes_scales(
    architecture: str, tmp_path: Path, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    text = "{{name: mine, method: composed, parts: [{{method: magnitude, sparsity: 0.5}}, {}]}}"
    assert export(decoder, made(decoder, text.format("rescale")), tmp_path / "out", ABOUT).distance < 1e-3
    if architecture == "qwen2":
        with pytest.raises(InputError, match=r"repair with `\+rescale` in place of `\+affine`"):
            export(decoder, made(decoder, text.format("affine")), tmp_path / "other", ABOUT)
    dropped = fitted_by(decoder, "attn-drop-1+affine", Variant(dropped=("mlp.1",)))
    with pytest.raises(InputError, match="drop without repair|in place of"):
        export(decoder, dropped, tmp_path / "third", ABOUT)


def test_no_checkpoint_holds_a_linear_map(decoder: Decoder, tmp_path: Path) -> None:
    repaired = made(decoder, "attn-drop-1+linear-4")
    with pytest.raises(InputError, match=r"no class of transformers has a linear map .* `\+affine`"):
        export(decoder, repaired, tmp_path / "out", ABOUT)
    assert not (tmp_path / "out").exists()


def test_a_model_in_half_precision_is_repaired(tiny_folder: Path) -> None:
    found = {}
    for dtype in ("bfloat16", "float32"):
        decoder = load_decoder(tiny_folder, dtype)
        base, repaired = (made(decoder, f"attn-drop-1+wanda-50{form}") for form in ("", "+linear-4"))
        assert {each.bias.dtype for each in repaired.substitutes.values()} == {decoder.dtype}
        variants = [Variant(), base, repaired]
        found[dtype] = [float(nats.mean()) for nats in sequence_divergences(decoder, variants, tokens_of(decoder))]
    zero, unrepaired, own = found["bfloat16"]
    assert zero == 0
    assert own < unrepaired
    assert own == pytest.approx(found["float32"][2], rel=0.05)


def test_activations_in_double_precision_give_the_same_repair(decoder: Decoder) -> None:
    base, recipe = changed_and_dropped(decoder), steps(parse_recipe("attn-drop-1+linear-4"))[-1]
    single, double = (
        repair(decoder, recipe, Statistics(tokens=tokens_of(decoder), dtype=each), base)
        for each in (None, torch.float64)
    )
    assert double.hash != single.hash
    for name, value in single.parameters.items():
        torch.testing.assert_close(double.parameters[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))
    for name, change in single.changes.items():
        dense = decoder.matrices[name].weight
        torch.testing.assert_close(double.changes[name].weight(dense), change.weight(dense), rtol=1e-3, atol=1e-4)
