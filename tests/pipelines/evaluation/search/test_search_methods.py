"""Searches of methods with many sparsities: the best method at each target, and sparsities split between matrices."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from prunescope.pipelines.evaluation.search.effects import EffectEngine, Effects
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.search import Search, SearchResult
from prunescope.pipelines.evaluation.search.splits import matrix_groups
from prunescope.pipelines.evaluation.search.treatments import Treatments
from prunescope.pipelines.evaluation.search.whole import Means, WholeMeasurement
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.recipes.mixed import sublayer_of
from prunescope.pipelines.studies.search_spec import SearchSpec
from tests.pipelines.evaluation.search.engine import gains, geometric, items_of, results

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


@pytest.fixture
def run(decoder: Decoder, tmp_path: Path) -> Callable[..., SearchResult]:
    """Return a function that searches for some shares; its keywords are further keys of the search."""

    def run(*remove: float, **keys: Any) -> SearchResult:
        spec = SearchSpec(remove=remove, **{"menu": METHODS, "measurements": 1, "controls": (), **keys})
        folder = tmp_path / "-".join(map(str, remove))
        return Search(decoder, spec, Menus(decoder), items_of(decoder), Journal(folder, "a")).run()

    return run


def test_a_search_of_split_sparsities_repeats_and_goes_on_without_measuring_again(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SearchSpec(remove=(0.25,), menu=(*METHODS, "drop"), measurements=3)
    items = items_of(decoder, 5, 30)

    def searched(folder: str) -> SearchResult:
        return Search(decoder, spec, Menus(decoder), items, Journal(tmp_path / folder, "a")).run()

    first, second = searched("a"), searched("b")
    monkeypatch.setattr(EffectEngine, "_batch", lambda *_: pytest.fail("measured again"))
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
    run: Callable[..., SearchResult], shares: tuple[float, ...], menu: tuple[str, ...], probes: set[int]
) -> None:
    found = run(*shares, menu=menu, controls=("hidden",))
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
    run: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest sparsity of the menu, split, loses a few weights to rounding."""
    reduced = Menu.removed

    def removed(self: Menu, sublayer: str, treatment: str) -> tuple[int, int]:
        parameters, saved = reduced(self, sublayer, treatment)
        return parameters - ("-by-" in treatment), saved

    monkeypatch.setattr(Menu, "removed", removed)
    of = results(run(0.5, measurements=3, controls=("hidden", "greedy")).trials)
    assert {row["move"] for row in of.values()} == {"uniform"}
    assert {strategy for strategy, _ in of} == {"searched", "hidden"}


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
    run: Callable[..., SearchResult], share: float
) -> None:
    trials = run(share).trials
    assert trials["move"].to_list()[:3] == ["uniform", "uniform", "sum"]
    assert (trials["removed"] >= share * (1 - 1e-9)).all()


def test_each_target_has_the_method_that_is_best_there_whichever_others_are_searched(
    run: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
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
        found = run(*shares, measurements=2)
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
    run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    found = run(0.25, minutes=1e-9)
    assert (found.effects.height, found.trials.height, found.is_complete) == (0, 0, False)
    assert not list(tmp_path.iterdir())


def test_the_search_by_hidden_states_begins_at_the_same_uniform_allocation(run: Callable[..., SearchResult]) -> None:
    trials = run(0.25, controls=("hidden",)).trials
    (start,) = trials.filter(strategy="hidden", move="uniform").rows(named=True)
    best = trials.filter(pl.col("is_accepted"), strategy="searched", move="uniform").rows(named=True)[-1]
    assert start["treatments_json"] == best["treatments_json"]
    assert start["item_nats"] == best["item_nats"]
