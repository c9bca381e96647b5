"""Whole searches on tiny models: targets, results, repeats, deadlines, resumption, and a planted optimum."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.search import search as search_module
from prunescope.pipelines.evaluation.search.effects import EffectEngine, Effects
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.run import _appended
from prunescope.pipelines.evaluation.search.search import Search, SearchResult
from prunescope.pipelines.evaluation.search.treatments import Treatments
from prunescope.pipelines.evaluation.search.trials import Trial
from prunescope.pipelines.evaluation.search.whole import WholeMeasurement
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.studies.search_spec import SearchSpec
from tests.pipelines.evaluation.search.engine import Killed, gains, geometric, items_of, menu_of, results
from tests.pipelines.evaluation.search.planted import cancelling_decoder

TREATMENTS = ("magnitude-20", "magnitude-40", "magnitude-60", "drop")
SPEC = SearchSpec(remove=(0.2, 0.35), menu=TREATMENTS, measurements=4)
Build = Callable[..., Search]
Patch = pytest.MonkeyPatch


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


def test_sums_of_effects_predict_the_mean_over_items(found: SearchResult, decoder: Decoder, menu: Menu) -> None:
    effects = EffectEngine(decoder, menu, items_of(decoder, 5, 30)).measure(Treatments(SPEC).swaps(menu))
    alone = dict(zip(effects.swaps, effects.mean(effects.kl)[0].tolist(), strict=True))
    assert effects.spread > 1.001
    summed = found.trials.filter(pl.col("move").is_in(["sum", "greedy"]), pl.col("strategy") != "hidden")
    assert {*summed["strategy"]} == {"searched", "greedy"}
    for row in summed.rows(named=True):
        total = sum(alone[swap] for swap in json.loads(row["treatments_json"]).items())
        assert row["predicted_nats"] == pytest.approx(effects.spread * total, rel=1e-4)


def test_gains_inside_an_allocation_are_those_on_most_items(build: Build, menu: Menu, monkeypatch: Patch) -> None:
    """One item outweighs the four others, and says the opposite."""
    search = build()
    search._use(menu)
    search._deadline = math.inf
    kl = np.array([*[[1.0, 0.5, 1.2]] * 4, [100.0, 110.0, 60.0]])
    effects = Effects((("attn.0", "keep"), ("attn.0", "drop"), ("mlp.0", "drop")), kl, kl, np.zeros(3, dtype=int))
    monkeypatch.setattr(search, "_effects", lambda *_: effects)
    gains = search._in_context("searched", menu, {}, [1, 2])
    assert gains[1] < 0 < gains[2]
    assert np.isnan(np.delete(gains, [1, 2])).all()


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

    monkeypatch.setattr(EffectEngine, "_batch", measured)
    monkeypatch.setattr(WholeMeasurement, "__init__", measured)
    again = build(folder=tmp_path).run()
    for name in ("effects", "trials"):
        for result in (first, again):
            rows = getattr(result, name).drop("seconds")
            assert rows.equals(getattr(found, name).drop("seconds"), null_equal=True), name


def test_a_killed_search_goes_on_where_it_was(
    build: Build, found: SearchResult, tmp_path: Path, killed_after: Killed
) -> None:
    killed_after(3, build(folder=tmp_path).run)
    stored = len(list(tmp_path.iterdir()))
    assert stored >= 4
    result = build(folder=tmp_path).run()
    assert result.trials.drop("seconds").equals(found.trials.drop("seconds"), null_equal=True)


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
    found = _appended(earlier, later, "a")
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


@pytest.mark.parametrize(
    ("proposing", "others", "exchange", "interval", "whole"),
    [(-0.5, 0.01, False, True, True), (0.1, -0.01, True, False, False), (-0.1, 0, False, True, True)],
)
def test_an_exchange_is_accepted_by_the_items_that_did_not_propose_it(
    proposing: float, others: float, exchange: bool, interval: bool, whole: bool
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
