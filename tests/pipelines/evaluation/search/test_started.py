"""Searches from a pruned model: planted damage, budgets, controls, held-out items, resumption and rebuilt recipes."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.search.effects import EffectEngine
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.search import SearchResult
from prunescope.pipelines.evaluation.search.started import StartedSearch, as_mixture
from prunescope.pipelines.evaluation.search.whole import WholeMeasurement
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.recipes import MixedRecipe, parse_recipe
from prunescope.pipelines.recipes.calibration import CalibrationSpec
from prunescope.pipelines.studies.search_spec import SearchSpec
from tests.pipelines.evaluation.search.engine import Killed, items_of, results
from tests.pipelines.evaluation.search.planted import cancelling_decoder
from tests.tiny_models import SHORT_TEXT

TOKENS = torch.arange(3, 99).reshape(3, 32)
LABELS = [f"{kind}.{layer}" for layer in range(3) for kind in ("attn", "mlp")]
Run = Callable[..., SearchResult]


def searched(decoder: Decoder, folder: Path, start: object, put_back: dict[str, float], **keys: Any) -> SearchResult:
    """Search from a start, calibrated on a few tokens, on eight texts, of which four choose."""
    statistics = Statistics(tokens=TOKENS)
    spec = SearchSpec.model_validate({"start": start, "put_back": put_back, "measurements": 2} | keys)
    assert spec.start is not None
    mixture = as_mixture(decoder, spec.start, statistics)

    def menus(names: Any, splits: Any) -> Menu:
        return Menu(decoder, names, statistics, splits)

    return StartedSearch(decoder, spec, menus, items_of(decoder, 8, 40), Journal(folder, "a"), start=mixture).run()


@pytest.fixture
def run(decoder: Decoder, tmp_path: Path) -> Run:
    """Return a function that searches from a start, with its budget, each in a folder of its own."""
    runs: list[object] = []

    def run(start: object, **put_back: float) -> SearchResult:
        runs.append(start)
        return searched(decoder, tmp_path / str(len(runs)), start, put_back)

    return run


@pytest.fixture(scope="module")
def found(decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return searched(decoder, tmp_path_factory.mktemp("journal"), "wanda-50", {"sublayers": 4})


def treated(row: dict[str, Any]) -> dict[str, str]:
    """Return the treatments of a trial, without kept sublayers."""
    return dict(json.loads(row["treatments_json"]))


def shares_of(decoder: Decoder, unit: str) -> dict[str, float]:
    """Return the share of a budget that `wanda-50` removes from each sublayer."""
    menu = Menu(decoder, ["wanda-50"], Statistics(tokens=TOKENS))
    pruned = (option for option in menu.options if option.treatment == "wanda-50")
    return {option.sublayer: getattr(option, unit) / menu.total(unit) for option in pruned}


def put_back(row: dict[str, Any], shares: dict[str, float]) -> float:
    """Return the share that a trial has put back."""
    return sum(shares[label] for label in shares.keys() - treated(row).keys())


def fitting(row: dict[str, Any], shares: dict[str, float], share: float) -> list[str]:
    """Return the sublayers that a trial leaves pruned although they fit into the share that may be put back."""
    left = share * (1 + 1e-9) - put_back(row, shares)
    return [label for label in treated(row) if shares[label] <= left]


def test_the_sublayer_that_causes_the_damage_is_put_back_first(run: Run) -> None:
    treatments = dict.fromkeys(LABELS, "magnitude-5") | {"mlp.1": "magnitude-95"}
    trials = run({"name": "mine", "method": "mixed", "treatments": treatments}, sublayers=2).trials
    assert trials["move"].to_list()[:3] == ["start", "restore", "restore"]
    assert trials["exchange"][1].startswith("mlp.1: mine-")
    start, first = trials["measured_nats"][:2]
    assert first < start / 5
    (result,) = trials.filter("is_result", strategy="searched").rows(named=True)
    assert "mlp.1" not in treated(result)


def test_sublayers_that_undo_each_other_stay_away_together(tmp_path: Path) -> None:
    """Each of the first two MLPs does the most harm if it alone is dropped, and none if both are."""
    start = {"method": "mixed", "treatments": dict.fromkeys(("mlp.0", "mlp.1", "mlp.2"), "drop")}
    trials = searched(cancelling_decoder(tmp_path), tmp_path / "a", start, {"sublayers": 1}).trials
    assert trials["exchange"][1] == "mlp.2: drop → keep"
    of = {strategy: row for (strategy, _), row in results(trials).items()}
    assert treated(of["searched"]).keys() == {"mlp.0", "mlp.1"}
    assert len({"mlp.0", "mlp.1"} & treated(of["greedy"]).keys()) == 1
    start_nats = trials["measured_nats"][0]
    assert of["searched"]["measured_nats"] < start_nats < of["greedy"]["measured_nats"]


def test_every_step_changes_the_trial_before_by_the_sublayer_that_is_best_inside_it(
    found: SearchResult, decoder: Decoder
) -> None:
    steps = found.trials.filter(pl.col("move").is_in(["start", "restore"])).rows(named=True)
    menu = Menu(decoder, ["wanda-50"], Statistics(tokens=TOKENS))
    whole = WholeMeasurement(decoder, items_of(decoder, 8, 40)[:4])
    for before, after in pairwise(steps):
        assert after["parent"] == before["trial"]
        candidates = {
            label: np.log(
                whole.measure(menu.variant({key: own for key, own in treated(before).items() if key != label}))[0]
            )
            for label in treated(before)
        }
        best = min(candidates, key=lambda label: candidates[label].mean())
        assert after["exchange"] == f"{best}: wanda-50 → keep"
        assert after["predicted_nats"] == pytest.approx(after["measured_nats"], rel=0.1)
    assert fitting(steps[-1], shares_of(decoder, "sublayers"), 4 / 6) == []


@pytest.mark.parametrize("unit", ["sublayers", "parameters"])
def test_a_set_is_compared_on_held_out_items_with_the_start_and_with_as_much_of_each_control(
    found: SearchResult, run: Run, decoder: Decoder, unit: str
) -> None:
    shares = shares_of(decoder, unit)
    if unit == "parameters":
        # After three sublayers the next one by its effect alone does not fit, but a smaller one does.
        found = run("wanda-50", parameters=0.3)
    ids = [item.id for item in items_of(decoder, 8, 40)]
    held_out = found.trials.filter(move="held_out")
    assert {*map(tuple, found.trials.filter(pl.col("move") != "held_out")["item_ids"])} == {(*ids[:4],)}
    assert {*map(tuple, held_out["item_ids"])} == {(*ids[4:],)}
    start, *sets = held_out.rows(named=True)
    assert treated(start) == dict.fromkeys(LABELS, "wanda-50")
    assert not held_out["is_accepted"].any()
    # The result may have other sublayers than the first four.
    own = [row for row in sets if row["strategy"] == "searched"]
    assert [6 - len(treated(row)) for row in own] == [2, 4]
    steps = found.trials.filter(pl.col("is_accepted"), move="restore")["treatments_json"].to_list()
    (result,) = found.trials.filter("is_result", strategy="searched")["treatments_json"]
    assert [row["treatments_json"] for row in own] == [steps[1], result]
    alone = dict(
        zip(
            (f"{kind}.{layer}" for layer, kind in found.effects.select("layer", "sublayer").iter_rows()),
            found.effects["kl_dense_pruned_nats"],
            strict=True,
        )
    )
    # A control may put back more or fewer sublayers of as many parameters.
    for rows in (sets[:7], sets[7:]):
        assert [row["strategy"] for row in rows] == ["searched", *["random"] * 5, "greedy"]
        (greedy,) = (treated(row).keys() for row in rows if row["strategy"] == "greedy")
        (share,) = (put_back(row, shares) for row in rows if row["strategy"] == "searched")
        largest, left = set[str](), share * (1 + 1e-9)
        for label in sorted(alone, key=lambda label: -alone[label] / shares[label]):
            if shares[label] <= left:
                largest, left = {*largest, label}, left - shares[label]
        assert {*alone} - greedy == largest
        for row in rows:
            assert put_back(row, shares) <= share * (1 + 1e-9)
            assert fitting(row, shares, share) == []
            assert row["parent"] == start["trial"]
            assert row["difference_nats"] == pytest.approx(row["measured_nats"] - start["measured_nats"], abs=1e-9)
    assert len({row["treatments_json"] for row in sets if row["strategy"] == "random"}) > 5


@pytest.mark.parametrize("unit", ["sublayers", "parameters", "bytes"])
def test_a_budget_is_never_exceeded(run: Run, decoder: Decoder, unit: str) -> None:
    amount = {"sublayers": 3, "parameters": 0.2, "bytes": 0.2}[unit]
    found, shares = run("wanda-50", **{unit: amount}), shares_of(decoder, unit)
    share = amount / 6 if unit == "sublayers" else amount
    for row in found.trials.rows(named=True):
        assert put_back(row, shares) <= share * (1 + 1e-9)
        assert row["removed"] >= row["remove"] * (1 - 1e-9)
    # Every sublayer that is put back lowers the KL here.
    *_, last = found.trials.filter("is_accepted", move="restore").rows(named=True)
    for row in (last, *found.trials.filter("is_result", pl.col("strategy") != "searched").rows(named=True)):
        assert fitting(row, shares, share) == []


@pytest.mark.parametrize(
    ("put_back", "message"),
    [
        ({"sublayers": 6}, "`search.put_back.sublayers` is 6, and the whole start takes 6: nothing would stay pruned"),
        ({"sublayers": 99}, "`search.put_back.sublayers` is 99, and the whole start takes 6"),
        ({"parameters": 0.6}, "`search.put_back.parameters` is 60.00%, and the whole start takes 50.00%"),
        ({"bytes": 0.9}, "`search.put_back.bytes` is 90.00%, and the whole start takes 43.75%"),
        ({"parameters": 0.01}, "`search.put_back.parameters` is 1.00%, less than the smallest sublayer takes, 6.67%"),
    ],
)
def test_a_budget_that_leaves_nothing_pruned_or_nothing_to_put_back_names_its_key(
    run: Run, put_back: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        run("wanda-50", **put_back)
    assert str(refused.value).startswith(message)


def test_a_search_from_a_start_that_was_killed_goes_on_where_it_was(
    found: SearchResult, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: Killed
) -> None:
    measure = WholeMeasurement.measure
    calls = killed_after(4, lambda: searched(decoder, tmp_path, "wanda-50", {"sublayers": 4}))
    assert len(list(tmp_path.iterdir())) > 4
    # What is known is not measured again.
    monkeypatch.setattr(WholeMeasurement, "measure", lambda *own: (calls.append(own), measure(*own))[1])
    result = searched(decoder, tmp_path, "wanda-50", {"sublayers": 4})
    assert len(calls) == len(list(found.trials.select("treatments_json", pl.col("move") == "held_out").unique().rows()))
    monkeypatch.setattr(EffectEngine, "_batch", lambda *_: pytest.fail("measured again"))
    for other in (result, searched(decoder, tmp_path, "wanda-50", {"sublayers": 4})):
        assert other.is_complete
        for name in ("effects", "trials"):
            rows = (getattr(each, name).drop("seconds") for each in (other, found))
            assert next(rows).equals(next(rows), null_equal=True), name


def test_a_search_from_a_start_without_time_has_no_result(decoder: Decoder, tmp_path: Path) -> None:
    found = searched(decoder, tmp_path, "magnitude-50", {"sublayers": 2}, minutes=1e-9)
    assert (found.trials.height, found.effects.height, found.is_complete) == (0, 6, False)


STARTS: dict[str, object] = {
    "mask": "wanda-50",
    "pattern": "sparsegpt-2of4",
    "bits": "rtn-3bit",
    "parameters": {"name": "mine", "method": "wanda", "sparsity": 0.6, "predecessors": "pruned"},
    "by layer": {"name": "mine", "method": "magnitude", "ratios": [0.3, 0.5, 0.7]},
    "part": {"name": "mine", "method": "magnitude", "sparsity": 0.5, "modules": ["attn", "*up_proj"]},
    "drops": "attn-drop-2-random7",
    "drops, then a mask": "attn-drop-1-random7+mlp-drop-1-random7+wanda-50",
    "mixture": {
        "name": "mine",
        "method": "mixed",
        "treatments": {"attn.0": "wanda-50", "attn.1": "drop", "mlp.1.up_proj": "rtn-3bit", "mlp.2": "magnitude-40"},
    },
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_a_found_recipe_rebuilt_from_its_text_is_the_variant_that_was_measured(
    run: Run, decoder: Decoder, start: object
) -> None:
    found = run(start, sublayers=1)
    items = items_of(decoder, 8, 40)
    rows = found.trials.filter("is_result").rows(named=True)
    assert [row["strategy"] for row in rows] == ["searched", "random", "greedy"]
    for row in rows:
        fields = {"name": row["recipe"], "method": "mixed", "predecessors": "dense"}
        text = json.dumps(fields | {"treatments": json.loads(row["recipe_treatments_json"])})
        recipe = parse_recipe(text)
        assert isinstance(recipe, MixedRecipe)
        assert {*recipe.sublayers} == treated(row).keys()
        own = [item for item in items if item.id in row["item_ids"]]
        kl = WholeMeasurement(decoder, own).measure(prune(decoder, recipe, tokens=TOKENS))[0]
        assert row["item_nats"] == pytest.approx(kl, rel=1e-4)


def test_outliers_give_each_layer_its_sparsity_and_modules_choose_its_matrices(decoder: Decoder) -> None:
    spec = CalibrationSpec(source=SHORT_TEXT, sequences=2, length=32)
    stats, tokens = calibrate(decoder, spec, "tiny").activation_stats, calibration_tokens(decoder.tokenizer, spec)
    recipe = parse_recipe("wanda-50-owl")
    mixture = as_mixture(decoder, recipe, Statistics(stats, tokens=tokens))
    truth, own = (prune(decoder, each, stats, tokens=tokens) for each in (recipe, mixture))
    assert {name: change.kept for name, change in own.changes.items()} == {
        name: change.kept for name, change in truth.changes.items()
    }
    assert {*mixture.treatments} == {*LABELS}
    part = parse_recipe("{name: mine, method: magnitude, sparsity: 0.5, modules: [attn, '*up_proj']}")
    places = {f"attn.{layer}" for layer in range(3)} | {f"mlp.{layer}.up_proj" for layer in range(3)}
    assert {*as_mixture(decoder, part, Statistics()).treatments} == places
