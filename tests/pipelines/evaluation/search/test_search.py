"""Whole searches on tiny models: targets, results, repeats, deadlines, resumption, and a planted optimum."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.search import search as search_module
from prunescope.pipelines.evaluation.search.effects import EffectEngine, Effects
from prunescope.pipelines.evaluation.search.items import Item, prompt_items
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.run import SearchKey, _appended
from prunescope.pipelines.evaluation.search.search import Search, SearchResult
from prunescope.pipelines.evaluation.search.splits import matrix_groups
from prunescope.pipelines.evaluation.search.treatments import Treatments
from prunescope.pipelines.evaluation.search.trials import Trial
from prunescope.pipelines.evaluation.search.whole import FreeRunningMeasurement, Means, WholeMeasurement
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.recipes.mixed import sublayer_of
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.search_spec import SearchSpec
from tests.pipelines.evaluation.search.engine import items_of, menu_of
from tests.pipelines.evaluation.search.planted import cancelling_decoder

TREATMENTS = ("magnitude-20", "magnitude-40", "magnitude-60", "drop")
SPEC = SearchSpec(remove=(0.2, 0.35), menu=TREATMENTS, measurements=4)
Build = Callable[..., Search]


@pytest.fixture(scope="module")
def decoder(tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder("llama")


@pytest.fixture(scope="module")
def menu(decoder: Decoder) -> Menu:
    return menu_of(decoder, *TREATMENTS)


@pytest.fixture(scope="module")
def build(decoder: Decoder, menu: Menu, tmp_path_factory: pytest.TempPathFactory) -> Build:
    def searching(spec: SearchSpec = SPEC, folder: Path | None = None, items: list[Item] | None = None) -> Search:
        journal = Journal(folder or tmp_path_factory.mktemp("journal"), "a")
        return Search(decoder, spec, lambda *_: menu, items or items_of(decoder, 5, 30), journal)

    return searching


@pytest.fixture(scope="module")
def found(build: Build) -> SearchResult:
    return build().run()


def results(trials: pl.DataFrame) -> dict[tuple[str, float], dict[str, Any]]:
    return {(row["strategy"], row["remove"]): row for row in trials.filter("is_result").iter_rows(named=True)}


def test_the_effects_are_one_row_a_sublayer_and_treatment(found: SearchResult, menu: Menu) -> None:
    keys = set(found.effects.select("layer", "sublayer", "matrix", "treatment").iter_rows())
    kinds = ("attn", "mlp")
    assert keys == {(layer, kind, "all", name) for layer in range(3) for kind in kinds for name in TREATMENTS}
    assert found.effects.height == len(keys)
    for row in found.effects.iter_rows(named=True):
        assert row["kl_low"] <= row["kl_dense_pruned_nats"] <= row["kl_high"]
        assert len(row["item_kl"]) == row["n_items"] <= 5
        removed = 1 if row["treatment"] == "drop" else int(row["treatment"][-2:]) / 100
        size = 12_288 if row["sublayer"] == "attn" else 18_432
        assert row["parameters_removed"] == pytest.approx(removed * size, rel=1e-2)


def test_effects_are_measured_on_the_first_items_and_allocations_on_all(build: Build, decoder: Decoder) -> None:
    items = [replace(item, id=f"{copy}-{item.id}") for copy in range(5) for item in items_of(decoder, 6, 30)]
    found = build(SPEC.model_copy(update={"controls": (), "measurements": 1}), items=items).run()
    assert max(found.effects["n_items"]) == 16
    assert {*found.trials["n_items"]} == {30}


def test_effects_take_half_of_the_time_but_a_first_batch_and_every_batch_is_kept(
    build: Build, decoder: Decoder, menu: Menu
) -> None:
    search = build(
        items=[replace(item, id=f"{copy}-{item.id}") for copy in range(3) for item in items_of(decoder, 3, 30)]
    )
    swaps = [(label, "magnitude-40") for label in menu.sublayers]
    search._use(menu)
    search._deadline = time.monotonic()
    short = search._effects(swaps, {}, 9)
    search._deadline = math.inf
    whole = search._effects(swaps, {}, 9)
    assert (len(short.kl), len(whole.kl)) == (4, 9)
    np.testing.assert_array_equal(short.kl, whole.kl[:4])
    search._deadline = time.monotonic()
    again = search._effects(swaps, {}, 9)
    assert (len(again.kl), again.seconds) == (9, whole.seconds)


def test_every_strategy_has_one_result_for_each_target_and_a_recipe_of_its_own(found: SearchResult) -> None:
    of = results(found.trials)
    assert found.trials["is_result"].sum() == len(of) == 8
    assert of.keys() == {(name, share) for name in ("searched", "hidden", "random", "greedy") for share in (0.2, 0.35)}
    recipes = [row["recipe"] for row in of.values()]
    assert found.trials["recipe"].drop_nulls().to_list() == recipes
    for (strategy, share), row in of.items():
        assert row["recipe"].startswith(
            f"mixed-{100 * share:g}-" if strategy == "searched" else f"mixed-{strategy}-{100 * share:g}-"
        )
    assert len(set(recipes)) == 8


def test_every_result_and_all_trials_but_the_steps_of_the_greedy_removal_reach_their_target(
    found: SearchResult, menu: Menu
) -> None:
    whole = found.trials.filter((pl.col("strategy") != "greedy") | pl.col("is_result"))
    assert (whole["removed"] >= whole["remove"] * (1 - 1e-12)).all()
    sizes = {(option.sublayer, option.treatment): option.parameters for option in menu.options}
    for row in found.trials.iter_rows(named=True):
        removed = sum(sizes[swap] for swap in json.loads(row["treatments_json"]).items())
        assert row["removed"] == pytest.approx(removed / 92_160)


def test_a_trial_measures_its_whole_allocation_and_its_difference_to_its_parent(
    found: SearchResult, decoder: Decoder, menu: Menu
) -> None:
    whole = WholeMeasurement(decoder, items_of(decoder, 5, 30))
    rows = found.trials.rows(named=True)
    assert [row["trial"] for row in rows] == list(range(len(rows)))
    for row in rows:
        kl = whole.measure(menu.variant(json.loads(row["treatments_json"])))[0]
        assert row["item_nats"] == pytest.approx(kl, rel=1e-5)
        assert row["measured_nats"] == pytest.approx(kl.mean())
        assert row["item_ids"] == [f"text-{index}" for index in range(5)]
        if row["parent"] is not None:
            parent = rows[row["parent"]]
            assert parent["trial"] < row["trial"]
            assert (parent["strategy"], parent["remove"]) == (row["strategy"], row["remove"])
            assert row["difference_nats"] == pytest.approx(row["measured_nats"] - parent["measured_nats"], abs=1e-9)


def geometric(row: Mapping[str, Any]) -> float:
    """Return the logarithm of the geometric mean over a trial's items."""
    return float(np.log(row["item_nats"]).mean())


def test_a_result_is_the_last_accepted_trial_and_for_the_objective_the_lowest(found: SearchResult) -> None:
    for (strategy, share), row in results(found.trials).items():
        own = found.trials.filter(pl.col("strategy") == strategy, pl.col("remove") == share)
        assert row["trial"] == own.filter("is_accepted")["trial"].max()
        if strategy in {"searched", "random"}:
            accepted = [geometric(other) for other in own.filter("is_accepted").iter_rows(named=True)]
            assert geometric(row) == min(accepted)
            assert accepted == sorted(accepted, reverse=True)


def test_the_search_is_no_worse_than_its_first_guess_and_than_random_allocations(found: SearchResult) -> None:
    of = results(found.trials)
    for share in (0.2, 0.35):
        first = found.trials.filter(pl.col("strategy") == "searched", pl.col("remove") == share)[0]
        assert first["move"].item() == "sum"
        assert geometric(of["searched", share]) <= geometric(first.row(0, named=True))
        assert geometric(of["searched", share]) < geometric(of["random", share])
        assert of["searched", share]["measured_nats"] < of["random", share]["measured_nats"]


def test_controls_spend_as_many_measurements_as_the_search(found: SearchResult) -> None:
    counted = found.trials.group_by("remove", "strategy").len()
    for share in (0.2, 0.35):
        own = dict(counted.filter(pl.col("remove") == share).select("strategy", "len").iter_rows())
        assert 1 <= own["searched"] <= 5
        assert own["hidden"] <= 5
        assert abs(own["random"] - own["searched"]) <= 1
        assert own["greedy"] == own["random"]


def test_the_same_seed_gives_the_same_rows_and_another_one_other_random_allocations(
    found: SearchResult, build: Build
) -> None:
    again, other = build().run(), build(SPEC.model_copy(update={"seed": 1})).run()
    for name in ("effects", "trials"):
        first, second = (getattr(result, name).drop("seconds") for result in (found, again))
        assert first.equals(second, null_equal=True), name
    drawn = [result.trials.filter(pl.col("move") == "random")["treatments_json"].to_list() for result in (found, other)]
    assert set(drawn[0]).isdisjoint(drawn[1])


def test_a_search_without_time_has_its_effects_and_no_trial(build: Build) -> None:
    result = build(SPEC.model_copy(update={"minutes": 1e-9})).run()
    assert result.effects.height == 24
    assert result.trials.height == 0


def test_a_search_whose_time_ends_after_some_trials_returns_the_best_of_these(
    build: Build, found: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of the clock is one second later than the one before."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(search_module.time, "monotonic", lambda: next(seconds))
    result = build(SPEC.model_copy(update={"minutes": 0.25})).run()
    assert 1 <= result.trials.height < found.trials.height
    assert results(result.trials).keys() <= {("searched", 0.2), ("searched", 0.35)}
    assert result.trials["is_result"].sum() == result.trials["remove"].n_unique()
    columns = ["strategy", "move", "remove", "treatments_json", "item_nats"]
    assert result.trials.select(columns).equals(found.trials.select(columns).head(result.trials.height))


def test_a_resumed_search_measures_nothing_again(
    build: Build, found: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(folder=tmp_path).run()

    stored = [np.load(file)["kl"].ndim for file in tmp_path.iterdir()]  # one for a trial, two for a batch of effects
    measured_once = set(first.trials["treatments_json"])
    assert stored.count(1) == len(measured_once) < first.trials.height

    def measured(*_: object) -> None:
        pytest.fail("a measurement of the journal was made again")

    monkeypatch.setattr(EffectEngine, "_measured", measured)
    monkeypatch.setattr(WholeMeasurement, "__init__", measured)
    again = build(folder=tmp_path).run()
    for name in ("effects", "trials"):
        for result in (first, again):
            rows = getattr(result, name).drop("seconds")
            assert rows.equals(getattr(found, name).drop("seconds"), null_equal=True), name


def test_a_killed_search_goes_on_where_it_was(
    build: Build, found: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = WholeMeasurement.measure, list[object]()

    def killed(self: WholeMeasurement, variant: object) -> object:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(variant)
        return measure(self, variant)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(WholeMeasurement, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            build(folder=tmp_path).run()
    stored = len(list(tmp_path.iterdir()))
    assert stored >= 4
    result = build(folder=tmp_path).run()
    assert result.trials.drop("seconds").equals(found.trials.drop("seconds"), null_equal=True)


def test_a_search_of_split_sparsities_repeats_and_goes_on_without_measuring_again(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SearchSpec(remove=(0.25,), menu=(*METHODS, "drop"), measurements=3)
    items = items_of(decoder, 5, 30)

    def searched(folder: str) -> SearchResult:
        return Search(decoder, spec, Menus(decoder), items, Journal(tmp_path / folder, "a")).run()

    first, second = searched("a"), searched("b")
    monkeypatch.setattr(EffectEngine, "_measured", lambda *_: pytest.fail("measured again"))
    for name in ("effects", "trials"):
        rows = [getattr(found, name).drop("seconds") for found in (first, second, searched("a"))]
        assert rows[0].equals(rows[1], null_equal=True), name
        assert rows[0].equals(rows[2], null_equal=True), name
    for row in first.trials.filter("is_result").iter_rows(named=True):
        whole = json.loads(row["recipe_treatments_json"])
        short = json.loads(row["treatments_json"])
        assert {sublayer_of(place) for place in whole} == {label for label, own in short.items() if own != "keep"}
        # The recipe alone is the variant that was measured.
        recipe = MixedRecipe.model_validate({"name": "found", "predecessors": "dense", "treatments": whole})
        variant = prune(decoder, recipe, tokens=Menus.TOKENS)
        kl = WholeMeasurement(decoder, items).measure(variant)[0]
        assert row["item_nats"] == pytest.approx(kl, rel=1e-4)


@pytest.mark.parametrize(
    ("shares", "menu", "probes"),
    [
        ((0.05, 0.1, 0.4), tuple(f"wanda-{percent}" for percent in (4, 5, 7, 10, 20, 30, 40, 50)), {7, 40}),
        pytest.param(
            *((0.1, 0.45), ("wanda-5", "wanda-10", "wanda-20", "wanda-40", "wanda-60"), {10, 40}),
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_targets_far_apart_have_measurements_of_their_own_and_no_row_comes_twice(
    decoder: Decoder, tmp_path: Path, shares: tuple[float, ...], menu: tuple[str, ...], probes: set[int]
) -> None:
    spec = SearchSpec(remove=shares, menu=menu, measurements=1, controls=("hidden",))
    found = Search(decoder, spec, Menus(decoder), items_of(decoder), Journal(tmp_path, "a")).run()
    keys = found.effects.select("layer", "sublayer", "matrix", "treatment")
    assert not keys.is_duplicated().any()
    measured = found.effects.filter(pl.col("n_items") > 0)
    assert {*measured["treatment"]} == {f"wanda-{percent}" for percent in probes}
    # The whole sublayer of a measured sparsity is about the sum of its matrices.
    for (_, _, treatment), own in measured.group_by("layer", "sublayer", "treatment"):
        (whole,) = found.effects.filter(
            matrix="all", treatment=treatment, layer=own["layer"][0], sublayer=own["sublayer"][0]
        )["kl_dense_pruned_nats"]
        assert 0.3 < own["kl_dense_pruned_nats"].sum() / whole < 3
    for (_, share), row in results(found.trials).items():
        for treatment in {*json.loads(row["treatments_json"]).values()} - {"keep"}:
            assert int(treatment.split("-")[1]) / 100 <= 3 * share + 0.15  # at most the next one of the menu


def test_the_same_sparsity_everywhere_stays_where_no_split_reaches_the_target(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest sparsity of the menu, split, loses a few weights to rounding."""
    reduced = Menu.removed

    def removed(self: Menu, sublayer: str, treatment: str) -> tuple[int, int]:
        parameters, saved = reduced(self, sublayer, treatment)
        return parameters - ("-by-" in treatment), saved

    monkeypatch.setattr(Menu, "removed", removed)
    spec = SearchSpec(remove=(0.5,), menu=METHODS, measurements=3, controls=("hidden", "greedy"))
    found = Search(decoder, spec, Menus(decoder), items_of(decoder), Journal(tmp_path, "a")).run()
    of = results(found.trials)
    assert {row["move"] for row in of.values()} == {"uniform"}
    assert {strategy for strategy, _ in of} == {"searched", "hidden"}


def gains(search: Search, name: str, menu: Menu, allocation: Mapping[str, str], options: Sequence[int]) -> Means:
    """Return the same large gain of every option inside an allocation."""
    found = np.full(len(menu.options), np.nan)
    found[list(options)] = -100.0
    return found


def test_after_a_sum_that_is_no_better_the_search_exchanges_inside_it(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = WholeMeasurement.measure
    made: list[object] = []

    def measure(self: WholeMeasurement, variant: Variant) -> tuple[Means, Means]:
        kl, cosines = measured(self, variant)
        made.append(variant)
        # Two uniform allocations, then a first sum that is far worse than these.
        return (100 * kl if len(made) == 3 else kl), cosines

    monkeypatch.setattr(WholeMeasurement, "measure", measure)
    monkeypatch.setattr(Search, "_in_context", gains)
    spec = SearchSpec(remove=(0.25,), menu=METHODS, measurements=6, controls=())
    trials = Search(decoder, spec, Menus(decoder), items_of(decoder, 5, 30), Journal(tmp_path, "a")).run().trials
    (first,) = trials.filter(move="sum").rows(named=True)
    assert not first["is_accepted"]
    later = trials.filter(pl.col("trial") > first["trial"])
    assert "exchange" in set(later["move"])
    uniform = trials.filter(pl.col("is_accepted"), move="uniform")["trial"].max()
    assert later["parent"][0] == uniform
    (result,) = trials.filter("is_result").rows(named=True)
    assert geometric(result) <= geometric(trials.filter(trial=uniform).row(0, named=True))


def test_a_target_that_the_menu_cannot_reach_is_refused_before_anything_is_measured(
    decoder: Decoder, tmp_path: Path
) -> None:
    spec = SearchSpec(remove=(0.2, 0.8), menu=("magnitude-40",))
    with pytest.raises(InputError, match=r"removes at most 40\.0% of the parameters, and 80\.0% are asked for"):
        Search(
            decoder, spec, lambda names, _: menu_of(decoder, *names), items_of(decoder), Journal(tmp_path, "a")
        ).run()
    assert not list(tmp_path.iterdir())


def test_bytes_and_milliseconds_are_budgets_too(decoder: Decoder, tmp_path: Path) -> None:
    times = {sublayer.label: 1.0 + sublayer.layer for sublayer in decoder.sublayers}
    menu = Menu(decoder, ("magnitude-60", "rtn-4bit", "drop"), Statistics(), (), times)
    assert menu.total("milliseconds") == 12
    for budget in ("bytes", "milliseconds"):
        spec = SearchSpec(remove=(0.3,), menu=("magnitude-60", "rtn-4bit", "drop"), budget=budget, controls=("random",))
        found = Search(decoder, spec, lambda *_: menu, items_of(decoder), Journal(tmp_path / budget, "a")).run()
        assert (found.trials["removed"] >= 0.3 * (1 - 1e-12)).all()
        for row in found.trials.rows(named=True):
            drops = [label for label, name in json.loads(row["treatments_json"]).items() if name == "drop"]
            if budget == "milliseconds":
                assert row["removed"] == pytest.approx(sum(times[label] for label in drops) / 12)


def test_the_search_takes_the_pair_that_cancels_where_the_sum_of_effects_takes_others(tmp_path: Path) -> None:
    """Three of eight sublayers must go: the attention that adds nothing and two MLPs."""
    decoder = cancelling_decoder(tmp_path)
    spec = SearchSpec(remove=(0.53,), menu=("drop",), measurements=8, controls=())
    menu, items = menu_of(decoder, "drop"), items_of(decoder, 8, 40)
    search = Search(decoder, spec, lambda *_: menu, items, Journal(tmp_path / "journal", "a"))
    trials = search.run().trials
    first, (best,) = trials.row(0, named=True), trials.filter("is_result").rows(named=True)
    assert "mlp.2" in json.loads(first["treatments_json"])
    assert json.loads(best["treatments_json"]) == {"attn.1": "drop", "mlp.0": "drop", "mlp.1": "drop"}
    assert best["measured_nats"] < first["measured_nats"] / 5


def test_a_search_for_texts_that_run_freely_measures_each_allocation_on_its_own_text(
    decoder: Decoder, menu: Menu, build: Build
) -> None:
    study = Study.model_validate(
        {
            "name": "own",
            "models": [{"name": "tiny", "source": "tiny"}],
            "recipes": ["dense"],
            "prompts": [{"id": each, "kind": "open", "text": each} for each in ("assert", "if", "while")],
            "generation": {"new_tokens": 8},
        }
    )
    items = prompt_items(decoder, study)
    spec = SPEC.model_copy(update={"objective": "free-kl", "controls": (), "remove": (0.2,)})
    trials = build(spec, items=items).run().trials
    whole = FreeRunningMeasurement(decoder, items)
    for row in trials.iter_rows(named=True):
        kl, _ = whole.measure(menu.variant(json.loads(row["treatments_json"])))
        assert row["item_nats"] == pytest.approx(kl, rel=1e-5)


METHODS = tuple(f"{method}-{percent}" for method in ("wanda", "magnitude") for percent in (10, 20, 30, 40, 50))


class Menus:
    """Menus calibrated on a few tokens, and the treatments of each."""

    TOKENS = torch.arange(3, 99).reshape(3, 32)

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._statistics = Statistics(tokens=self.TOKENS)
        self.treatments: list[tuple[str, ...]] = []

    def __call__(self, treatments: Sequence[str], splits: Sequence[MixedRecipe] = ()) -> Menu:
        self.treatments.append((*treatments, *(each.name for each in splits)))
        return Menu(self._decoder, treatments, self._statistics, splits)


@pytest.mark.parametrize(("others", "is_better"), [(0.9, True), (1.1, False)])
def test_a_few_texts_do_not_decide_between_methods(others: float, is_better: bool) -> None:
    """One text of twelve outweighs all others in the mean, and says the opposite."""
    before = np.append(np.ones(11), 50.0)
    after = np.append(np.full(11, others), 60.0 if is_better else 40.0)
    assert (after.mean() < before.mean()) != is_better
    parent = Trial(0, "searched", "uniform", 0.2, 0.2, {}, None, before, before)
    trial = Trial(1, "searched", "uniform", 0.2, 0.2, {}, None, after, after, parent)
    assert search_module._is_better(trial, parent) == is_better
    zeros = Trial(2, "searched", "uniform", 0.2, 0.2, {}, None, np.zeros(12), np.zeros(12))
    assert search_module._is_better(zeros, parent)
    assert not search_module._is_better(zeros, zeros)


def test_other_targets_replace_computed_effects_and_no_measured_ones() -> None:
    def rows(search: str, **of_treatments: tuple[int, float]) -> pl.DataFrame:
        keys = {"search": search, "layer": 0, "sublayer": "attn", "matrix": "q_proj"}
        return pl.DataFrame(
            [keys | {"treatment": name, "n_items": count, "kl": kl} for name, (count, kl) in of_treatments.items()]
        )

    earlier = pl.concat([rows("a", w20=(16, 1.0), w30=(0, 3.0)), rows("b", w20=(0, 9.0))])
    later = rows("a", w20=(0, 2.0), w30=(0, 4.0), w14=(16, 0.5))
    found = _appended(earlier, later, SearchKey("tiny", "a", "hash"), (0.15,))
    assert {(row["search"], row["treatment"]): row["kl"] for row in found.iter_rows(named=True)} == {
        ("a", "w20"): 1.0,
        ("a", "w30"): 4.0,
        ("a", "w14"): 0.5,
        ("b", "w20"): 9.0,
    }
    assert found.height == 4


def test_gains_that_add_up_to_more_than_the_whole_predict_no_negative_kl(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Search, "_in_context", gains)
    trials = build(SPEC.model_copy(update={"controls": ()})).run().trials.filter(move="exchange")
    assert {*trials["predicted_nats"]} == {0.0}


def test_the_method_that_does_best_at_the_same_sparsity_everywhere_is_searched(
    decoder: Decoder, tmp_path: Path
) -> None:
    spec = SearchSpec(remove=(0.25,), menu=(*METHODS, "drop"), measurements=1, controls=("random",))
    menus, items = Menus(decoder), items_of(decoder, 5, 30)
    found = Search(decoder, spec, menus, items, Journal(tmp_path, "a")).run()
    *uniform, first = found.trials.rows(named=True)[:3]
    assert [row["move"] for row in (*uniform, first)] == ["uniform", "uniform", "sum"]
    whole, every = WholeMeasurement(decoder, items), Menus(decoder)(METHODS)
    measured = {}
    for row, method in zip(uniform, ("wanda", "magnitude"), strict=True):
        treatments = json.loads(row["treatments_json"])
        assert set(treatments) == {sublayer.label for sublayer in decoder.sublayers}
        assert set(treatments.values()) == {f"{method}-20", f"{method}-30"}
        assert 0.25 <= row["removed"] < 0.26
        measured[method] = row["measured_nats"]
        assert measured[method] == pytest.approx(whole.measure(every.variant(treatments))[0].mean(), rel=1e-4)

    best = min(measured, key=measured.__getitem__)
    # Only the sparsities around the target are pruned for the choice; one of them is measured in every matrix.
    digest = menus.treatments[-1][-1].rpartition("-")[2]
    split = [f"{best}-{percent}-by-kl-{digest}" for percent in (10, 20, 30, 40, 50)]
    assert menus.treatments == [
        ("wanda-20", "wanda-30", "magnitude-20", "magnitude-30"),
        (f"{best}-20", f"{best}-50", "drop"),
        (f"{best}-20", f"{best}-30", "drop", *split),
    ]
    parts = {group.name for group in matrix_groups(menus(()).sublayers)}
    assert parts == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    seen = {count: set[tuple[str, str]]() for count in (True, False)}
    for matrix, treatment, count in found.effects.select("matrix", "treatment", "n_items").iter_rows():
        seen[count > 0].add((matrix, treatment))
    assert seen[True] == {*((part, f"{best}-20") for part in parts), ("all", "drop")}
    unsplit = {("all", f"{best}-20"), *((matrix, f"{best}-30") for matrix in (*parts, "all"))}
    assert seen[False] == unsplit | {(matrix, name) for name in split for matrix in (*parts, "all")}
    for (_, treatment), own in found.effects.filter(pl.col("treatment") != "drop").group_by("layer", "treatment"):
        alone, whole = (own.filter((pl.col("matrix") == "all") == is_whole) for is_whole in (False, True))
        assert alone["parameters_removed"].sum() == whole["parameters_removed"].sum()
        # The shifts of matrices are not parallel: effects add up about.
        sums = [rows["kl_dense_pruned_nats"].sum() for rows in (alone, whole)]
        assert 0.5 < sums[0] / sums[1] < 2, treatment
    assert first["parent"] == (0 if best == "wanda" else 1)
    (result,) = found.trials.filter(pl.col("is_result"), strategy="searched").rows(named=True)
    assert geometric(result) <= geometric(next(row for row in uniform if row["measured_nats"] == measured[best]))


def test_a_drop_changes_by_as_much_as_the_matrices_of_its_sublayer(decoder: Decoder) -> None:
    treatments = Treatments(SearchSpec(remove=(0.25,), menu=(*METHODS, "drop")))
    menu = Menus(decoder)(treatments.keep({0.25: treatments.methods["wanda-20"]}))
    swaps = treatments.swaps(menu)
    firsts = {label: place for place, (label, _) in reversed([*enumerate(swaps)])}
    generator = np.random.default_rng(0)
    kl = generator.lognormal(0, 0.3, (6, len(swaps))) * generator.lognormal(0, 2.0, len(swaps))
    effects = Effects(tuple(swaps), kl, kl, np.array([firsts[label] for label, _ in swaps]))
    measured = dict(zip(swaps, effects.mean(kl)[0], strict=True))
    found = treatments.alone(menu, effects, "kl")
    assert found.keys() == measured.keys()
    ratios = [
        sum(found[swap] for swap in swaps if swap[0] == label and swap[1] != "drop")
        / sum(measured[swap] for swap in swaps if swap[0] == label and swap[1] != "drop")
        for label in menu.sublayers
    ]
    assert [found[label, "drop"] / measured[label, "drop"] for label in menu.sublayers] == pytest.approx(ratios)
    assert np.std(ratios) > 0.1


def test_methods_that_cannot_reach_a_target_alone_are_all_searched(decoder: Decoder, tmp_path: Path) -> None:
    spec = SearchSpec(remove=(0.7,), menu=(*METHODS, "drop"), measurements=1, controls=())
    menus = Menus(decoder)
    found = Search(decoder, spec, menus, items_of(decoder), Journal(tmp_path, "a")).run()
    # No sparsity reaches the target, and the highest is the nearest.
    assert {name.partition("-by-")[0] for name in menus.treatments[-1]} >= {"wanda-50", "magnitude-50"}
    assert {name for name in menus.treatments[1] if name != "drop"} == {"wanda-50", "magnitude-50"}
    assert found.trials["move"][0] == "sum"


@pytest.mark.parametrize("share", [0.2, pytest.param(0.3, marks=pytest.mark.exhaustive)])
def test_methods_are_compared_at_a_target_that_is_a_sparsity_of_the_menu(
    decoder: Decoder, tmp_path: Path, share: float
) -> None:
    spec = SearchSpec(remove=(share,), menu=METHODS, measurements=1, controls=())
    found = Search(decoder, spec, Menus(decoder), items_of(decoder), Journal(tmp_path, "a")).run()
    assert found.trials["move"].to_list()[:3] == ["uniform", "uniform", "sum"]
    assert (found.trials["removed"] >= share * (1 - 1e-9)).all()


def test_each_target_has_the_method_that_is_best_there_whichever_others_are_searched(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = WholeMeasurement.measure
    names = {}

    def named(self: Menu, allocation: Mapping[str, str]) -> Variant:
        variant = own(self, allocation)
        names[id(variant)] = (
            variant,
            {name.partition("-")[0] for name in allocation.values()},
            max(allocation.values()),
        )
        return variant

    def measure(self: WholeMeasurement, variant: Variant) -> tuple[Means, Means]:
        kl, cosines = measured(self, variant)
        _, methods, largest = names[id(variant)]
        # Whole variants of Wanda lose below 25 %.
        factor = 9 if methods == {"wanda"} and int(largest.split("-")[1]) <= 20 else 1 if methods == {"wanda"} else 3
        return kl * factor, cosines

    own = Menu.variant
    monkeypatch.setattr(Menu, "variant", named)
    monkeypatch.setattr(WholeMeasurement, "measure", measure)

    def results(*shares: float) -> dict[float, str]:
        spec = SearchSpec(remove=shares, menu=METHODS, measurements=2, controls=())
        folder = tmp_path / "-".join(map(str, shares))
        found = Search(decoder, spec, Menus(decoder), items_of(decoder), Journal(folder, "a")).run()
        assert {name.partition("-")[0] for name in found.effects["treatment"]} == {
            method for method, share in (("wanda", 0.3), ("magnitude", 0.15)) if share in shares
        }
        rows = found.trials.filter("is_result").rows(named=True)
        return {row["remove"]: row["treatments_json"] for row in rows}

    together = results(0.15, 0.3)
    assert together == results(0.15) | results(0.3)
    assert "wanda" not in together[0.15]
    assert "magnitude" not in together[0.3]


def test_a_search_whose_time_ends_before_the_methods_are_compared_measures_no_effects(
    decoder: Decoder, tmp_path: Path
) -> None:
    spec = SearchSpec(remove=(0.25,), menu=METHODS, minutes=1e-9)
    found = Search(decoder, spec, Menus(decoder), items_of(decoder), Journal(tmp_path, "a")).run()
    assert (found.effects.height, found.trials.height, found.is_complete) == (0, 0, False)
    assert not list(tmp_path.iterdir())


def test_the_search_by_hidden_states_begins_at_the_same_uniform_allocation(decoder: Decoder, tmp_path: Path) -> None:
    spec = SearchSpec(remove=(0.25,), menu=METHODS, measurements=1, controls=("hidden",))
    trials = Search(decoder, spec, Menus(decoder), items_of(decoder), Journal(tmp_path, "a")).run().trials
    (start,) = trials.filter(strategy="hidden", move="uniform").rows(named=True)
    best = trials.filter(pl.col("is_accepted"), strategy="searched", move="uniform").rows(named=True)[-1]
    assert start["treatments_json"] == best["treatments_json"]
    assert start["item_nats"] == best["item_nats"]


@pytest.mark.parametrize(
    ("proposing", "others", "exchange", "interval", "whole"),
    [(-0.5, 0.01, False, True, True), (0.1, -0.01, True, False, False), (-0.1, 0, False, True, True)],
)
def test_an_exchange_is_accepted_by_the_items_that_did_not_propose_it(
    proposing: float,
    others: float,
    exchange: bool,
    interval: bool,
    whole: bool,
) -> None:
    parent = Trial(0, "searched", "sum", 0.2, 0.2, {}, 0.5, np.ones(12), np.ones(12))
    nats = parent.nats + np.repeat([proposing, others], (8, 4))
    accepted = {"exchange": exchange, "sum": whole, "random": whole}
    for move, is_accepted in accepted.items():
        trial = Trial(1, "searched", move, 0.2, 0.2, {}, 0.5, nats, nats, parent)
        assert search_module._is_better(trial, parent) == is_accepted
    # Items on which effects were measured chose the parent: those behind them judge, where there are two.
    for judging, is_better in ((0.01, False), (-0.01, True)):
        many = 1 + np.repeat([proposing, others, judging], (8, 8, 2))
        trial = Trial(1, "searched", "exchange", 0.2, 0.2, {}, 0.5, many, many)
        own = Trial(0, "searched", "sum", 0.2, 0.2, {}, 0.5, np.ones(18), np.ones(18))
        assert search_module._is_better(trial, own) == is_better
    # Of few items none is left to judge by, and the interval over all decides.
    for count, is_accepted in ((8, proposing < 0), (9, interval)):
        few, before = nats[:count], np.ones(count)
        trial = Trial(1, "searched", "exchange", 0.2, 0.2, {}, 0.5, few, few)
        own = Trial(0, "searched", "sum", 0.2, 0.2, {}, 0.5, before, before)
        assert search_module._is_better(trial, own) == is_accepted
