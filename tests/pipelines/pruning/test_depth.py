"""Tests of depth pruning: every choice of sublayers and blocks against brute force on a copy without them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import first_tensor, hooks
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import CalibrationResult, calibrate, calibration_tokens
from prunescope.pipelines.pruning.methods.depth import (
    BATCH,
    angular_distances,
    drop,
    drop_order,
    influences,
    losses,
    ordered,
)
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.pipelines.models.reference_models import copy_of, write_zeros
from tests.tiny_models import SHORT_TEXT, save_tiny

LAYERS = 5
SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=5, length=24)
ALL = [f"{kind}.{layer}" for layer in range(LAYERS) for kind in ("attn", "mlp")]
BLOCKS = [f"block.{layer}" for layer in range(LAYERS)]
# In sequence, in parallel, with norms after the sublayers, with the stream passed through them.
ARCHITECTURES = ("llama", "gpt_neox", "gemma2", "bloom")
Load = Callable[[str], tuple[Decoder, CalibrationResult, Tensor]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    @cache
    def loaded(name: str) -> tuple[Decoder, CalibrationResult, Tensor]:
        layers = {"n_layer" if name == "bloom" else "num_hidden_layers": LAYERS}
        decoder = load_decoder(save_tiny(tmp_path_factory.mktemp("models") / name, name, **layers))
        return decoder, calibrate(decoder, SPEC, "tiny"), calibration_tokens(decoder.tokenizer, SPEC)

    return loaded


def parts(labels: Sequence[str]) -> set[str]:
    found = set()
    for label in labels:
        kind, layer = label.split(".")
        found |= {f"attn.{layer}", f"mlp.{layer}"} if kind == "block" else {label}
    return found


def without(decoder: Decoder, labels: Sequence[str]) -> Decoder:
    """Return a copy in which all weights of some units are zero."""
    copied = copy_of(decoder)
    write_zeros(copied, parts(labels))
    return copied


def loss(decoder: Decoder, tokens: Tensor, labels: Sequence[str] = ()) -> float:
    """Return the mean negative log-likelihood of the model's own logits, in float64."""
    model = without(decoder, labels).model
    with torch.no_grad():
        found = model(input_ids=tokens, use_cache=False).logits.double().log_softmax(dim=-1)
    return float(-found[:, :-1].gather(-1, tokens[:, 1:, None]).mean())


def streams(decoder: Decoder, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by label the stream before each unit and its contribution, in float64."""
    before: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}
    added: dict[str, Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: object) -> None:
            before[index] = (args[0] if args else kwargs["hidden_states"]).double()
            after[index] = first_tensor(output).double()

        return hook

    handles = [
        layer.module.register_forward_hook(keep(index), with_kwargs=True) for index, layer in enumerate(decoder.layers)
    ]
    for each in decoder.sublayers:
        handles += each.watch(lambda value, label=each.label: added.__setitem__(label, value.double()))
    with hooks(*handles):
        decoder.hidden(tokens)
    found = {}
    for index, layer in enumerate(decoder.layers):
        attn, mlp = added[f"attn.{index}"], added[f"mlp.{index}"]
        found[f"attn.{index}"] = before[index], attn
        found[f"mlp.{index}"] = before[index] + (0 if layer.is_parallel else attn), mlp
        found[f"block.{index}"] = before[index], after[index] - before[index]
    return found


def influence(decoder: Decoder, tokens: Tensor, units: Sequence[str], labels: Sequence[str] = ()) -> dict[str, float]:
    seen = streams(without(decoder, labels), tokens)
    return {unit: float((1 - torch.cosine_similarity(seen[unit][0], sum(seen[unit]), dim=-1)).mean()) for unit in units}


@pytest.mark.parametrize("unit", ["attn", "mlp", "block", "attn+mlp"])
def test_one_shot_orders_equal_the_tables_order(load: Load, unit: str) -> None:
    decoder, calibrated, _ = load("llama")
    recipe = parse_recipe(f"{unit}-drop-2")
    variant = prune(decoder, recipe, None, calibrated.block_influence)
    rows = calibrated.block_influence.filter(pl.col("unit").is_in(unit.split("+"))).sort("influence")
    assert variant.facts["drop_order"] == [f"{row['unit']}.{row['layer']}" for row in rows.iter_rows(named=True)]
    assert variant.facts["drop_scores"] == rows["influence"].to_list()
    assert set(variant.dropped) == parts(variant.facts["drop_order"][:2])
    if unit != "attn+mlp":
        assert len(rows) == LAYERS
        assert rows["drop_order"].to_list() == list(range(1, LAYERS + 1))
    row = variant_row(decoder, "tiny", recipe, variant, None, 1, 1.0).row(0, named=True)
    assert row["drop_order"] == variant.facts["drop_order"]
    assert row["drop_scores"] == variant.facts["drop_scores"]


@pytest.mark.third(0)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_iterative_orders_measure_again_after_every_removal(load: Load, architecture: str) -> None:
    decoder, calibrated, tokens = load(architecture)
    for unit, labels in (("attn+mlp", ALL), ("block", BLOCKS)):
        recipe = parse_recipe(f"{unit}-drop-3-iterative")
        order = drop_order(decoder, recipe, Statistics(tokens=tokens), Variant())
        shot = prune(decoder, parse_recipe(f"{unit}-drop-3"), None, calibrated.block_influence)
        assert order[0].label == shot.facts["drop_order"][0]
        assert order[0].score == pytest.approx(shot.facts["drop_scores"][0], rel=1e-9)
        for place, (label, score) in enumerate(order):
            removed = [each for each, _ in order[:place]]
            brute = influence(decoder, tokens, [each for each in labels if each not in removed], removed)
            assert min(brute, key=brute.__getitem__) == label
            assert score == pytest.approx(brute[label], rel=1e-4)
        assert set(prune(decoder, recipe, tokens=tokens).dropped) == parts([label for label, _ in order])


@pytest.mark.third(1)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_choices_are_those_of_brute_force(load: Load, architecture: str) -> None:
    decoder, _, tokens = load(architecture)
    for unit, labels in (("attn+mlp", ALL), ("block", BLOCKS)):
        recipe = parse_recipe(f"{unit}-drop-2-greedy")
        order = drop_order(decoder, recipe, Statistics(tokens=tokens), Variant())
        for place, (label, score) in enumerate(order):
            removed = [each for each, _ in order[:place]]
            brute = {each: loss(decoder, tokens, [*removed, each]) for each in labels if each not in removed}
            assert min(brute, key=brute.__getitem__) == label
            assert score == pytest.approx(brute[label], rel=1e-5)


def test_losses_do_not_depend_on_how_the_tokens_are_split(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, _, tokens = load("llama")
    whole = losses(decoder, ALL, tokens, set())
    monkeypatch.setattr("prunescope.pipelines.pruning.methods.depth._MAX_TOKENS", 1)
    monkeypatch.setattr("prunescope.pipelines.pruning.methods.depth.BLOCK_ROWS", 7)
    assert losses(decoder, ALL, tokens, set()) == pytest.approx(whole, rel=1e-6)
    assert losses(decoder, ["attn.1"], tokens, set())["attn.1"] == pytest.approx(
        loss(decoder, tokens, ["attn.1"]), rel=1e-5
    )


def test_depth_passes_shrink_where_memory_is_short(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, _, tokens = load("llama")
    tokens = tokens.repeat(4, 1)
    sizes, hidden = list[int](), Decoder.hidden

    def recorded(self: Decoder, ids: Tensor, *arguments: object, **named: object) -> Tensor:
        sizes.append(len(ids))
        return hidden(self, ids, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "hidden", recorded)
    for measure in (influences, lambda own, units, ids: angular_distances(own, units, 1, ids)):
        found = []
        for split in (1, 2):
            sizes.clear()
            found.append(measure(replace(decoder, split=split), BLOCKS, tokens))
            assert max(sizes) <= BATCH // split
        assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("by", ["greedy", "iterative"])
def test_an_order_continues_from_its_known_beginning(load: Load, by: str) -> None:
    decoder, _, tokens = load("llama")
    two, three = (parse_recipe(f"attn+mlp-drop-{count}-{by}") for count in (2, 3))
    statistics = Statistics(tokens=tokens)
    known = drop_order(decoder, two, statistics, Variant())
    continued = drop_order(decoder, three, replace(statistics, order=known), Variant())
    assert continued == drop_order(decoder, three, statistics, Variant())
    unread = Statistics(tokens=torch.empty(1, 1), order=known)
    assert drop_order(decoder, two, unread, Variant()) == known, "nothing is left to be measured"
    # A beginning that measuring would not have chosen is kept; the next unit is the best after it.
    odd = [("mlp.0", 1.5), ("attn.0", 1.0)]
    label = drop_order(decoder, three, replace(statistics, order=odd), Variant())[2].label
    left = [each for each in ALL if each not in {"mlp.0", "attn.0"}]
    brute = (
        {each: loss(decoder, tokens, ["mlp.0", "attn.0", each]) for each in left}
        if by == "greedy"
        else influence(decoder, tokens, left, ["mlp.0", "attn.0"])
    )
    assert label == min(brute, key=brute.__getitem__)
    # A longer order is cut to the recipe's count: otherwise the variant would depend on earlier runs.
    short, again = (
        drop(decoder, two, replace(statistics, order=order), Variant()) for order in ([], [*known, ("mlp.4", 9.0)])
    )
    assert set(again.dropped) == {each for each, _ in known}
    assert again.hash == short.hash
    assert again.facts == short.facts
    assert again.facts["drop_order"] == [each for each, _ in known]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("unit", ["attn", "mlp", "attn+mlp", "block"])
def test_consecutive_units_rotate_the_last_tokens_stream_least(load: Load, architecture: str, unit: str) -> None:
    decoder, _, tokens = load(architecture)
    labels = [each for each in [*ALL, *BLOCKS] if each.split(".")[0] in unit.split("+")]
    seen = streams(decoder, tokens)
    angles = {}
    for place in range(len(labels) - 1):
        start = seen[labels[place]][0][:, -1]
        end = start + sum(seen[label][1][:, -1] for label in labels[place : place + 2])
        if unit == "block" and place + 2 < LAYERS:  # the stream after the last of them
            torch.testing.assert_close(end, seen[labels[place + 2]][0][:, -1], rtol=1e-5, atol=1e-5)
        angles[place] = float((torch.cosine_similarity(start, end).arccos() / math.pi).mean())
    best = min(angles, key=angles.__getitem__)
    variant = prune(decoder, parse_recipe(f"{unit}-drop-2-consecutive"), tokens=tokens)
    assert variant.facts["drop_order"] == labels[best : best + 2]
    assert variant.facts["drop_scores"] == pytest.approx([angles[best]] * 2, rel=1e-6)
    assert set(variant.dropped) == parts(labels[best : best + 2])


def test_random_drops_follow_the_seed_and_are_nested(load: Load) -> None:
    decoder, _, _ = load("llama")
    found = [prune(decoder, parse_recipe(f"attn+mlp-drop-{count}-random7")) for count in (2, 2, 5)]
    assert found[0].dropped == found[1].dropped
    assert set(found[0].dropped) < set(found[2].dropped)
    assert found[0].facts["drop_order"] == found[2].facts["drop_order"]
    assert sorted(found[0].facts["drop_order"]) == sorted(ALL)
    assert found[0].facts["drop_scores"] == []
    others = {prune(decoder, parse_recipe(f"attn+mlp-drop-2-random{seed}")).dropped for seed in range(8)}
    assert len(others) > 3


def test_listed_units_are_dropped(load: Load) -> None:
    decoder, _, _ = load("llama")
    blocks = prune(decoder, parse_recipe("{name: mine, method: block-drop, layers: [3, 1]}"))
    assert blocks.dropped == ("attn.1", "mlp.1", "attn.3", "mlp.3")
    assert blocks.facts["drop_order"] == ["block.3", "block.1"]
    mixed = prune(decoder, parse_recipe("{name: mine, method: attn+mlp-drop, sublayers: [mlp.4, attn.0]}"))
    assert mixed.dropped == ("attn.0", "mlp.4")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("attn-drop-5", "the model has 5 layers; drop fewer"),
        ("attn+mlp-drop-10-greedy", "5 layers with 10 sublayers; drop fewer"),
        ("{name: m, method: mlp-drop, layers: [2, 5]}", "no mlp.5, only mlp.0 to mlp.4"),
        ("{name: m, method: attn+mlp-drop, sublayers: [attn.3, head.1]}", "no head.1, only attn.0 to mlp.4"),
        ("block-drop-2-greedy", "needs calibration tokens"),
        ("attn+mlp-drop-2", "needs block_influence"),
    ],
)
def test_units_that_the_model_lacks_are_refused_with_its_numbers(load: Load, recipe: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prune(load("llama")[0], parse_recipe(recipe))


def test_one_token_ties_and_nan_are_handled(load: Load, tmp_path: Path) -> None:
    decoder, _, tokens = load("llama")
    greedy, iterative = parse_recipe("mlp-drop-1-greedy"), parse_recipe("mlp-drop-1-iterative")
    with pytest.raises(InputError, match=r"calibration\.length to 2 or more"):
        prune(decoder, greedy, tokens=tokens[:, :1])
    assert len(prune(decoder, iterative, tokens=tokens[:1, :1]).dropped) == 1
    assert [each.label for each in ordered({"mlp.0": 2.0, "mlp.1": 1.0, "mlp.2": 1.0})] == ["mlp.1", "mlp.2", "mlp.0"]
    broken = load_decoder(save_tiny(tmp_path / "broken"))
    with torch.no_grad():
        broken.layers[2].mlp.mixers[0].down_proj.weight[3, 3] = float("nan")
    for recipe in (greedy, iterative, parse_recipe("mlp-drop-1-consecutive")):
        with pytest.raises(ComputationError, match="NaN or infinite"):
            prune(broken, recipe, tokens=tokens)
