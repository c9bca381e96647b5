"""Sparsities of matrices against the optimum of sums of cubes, and effects that their sums predict."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from prunescope.pipelines.evaluation.search.effects import EffectEngine
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.splits import (
    MatrixGroup,
    Split,
    around,
    matrix_groups,
    methods_of,
    nearest,
    predicted_effects,
    probes_of,
    shrunk,
    within_reach,
)
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from tests.pipelines.evaluation.search.engine import items_of

WANDA = [f"wanda-{percent}" for percent in (5, 10, 20, 30, 40, 90)]


def of_one_sublayer(*sizes: int) -> list[MatrixGroup]:
    return [MatrixGroup("mlp.0", f"m{number}", size, 1000) for number, size in enumerate(sizes)]


def test_methods_have_more_than_three_sparsities() -> None:
    menu = [*WANDA, "sparsegpt-20", "sparsegpt-30", "sparsegpt-40", "wanda-2of4", "rtn-4bit", "drop", "attn-drop"]
    methods = methods_of(menu)
    assert set(methods) == {*WANDA}
    assert around(0.2, methods) == {"wanda-20", "wanda-30"}
    assert around(0.01, methods) == {"wanda-5"}
    assert around(0.95, methods) == {"wanda-90"}
    assert nearest(0.26, methods) == "wanda-30"
    assert within_reach([0.1], methods) == ["wanda-5", "wanda-10", "wanda-20", "wanda-30"]
    assert within_reach([0.3], methods) == ["wanda-10", "wanda-20", "wanda-30", "wanda-40"]
    # Those around a target are there, however far away.
    assert within_reach([0.01], methods) == ["wanda-5"]


def test_targets_share_a_measured_sparsity_that_is_at_most_twice_or_half_of_each() -> None:
    methods = methods_of(WANDA)
    assert probes_of([0.1, 0.2, 0.3, 0.4], methods) == dict.fromkeys((0.1, 0.2, 0.3, 0.4), "wanda-20")
    assert probes_of([0.1, 0.4], methods) == dict.fromkeys((0.1, 0.4), "wanda-20")
    assert probes_of([0.05, 0.1, 0.21, 0.9], methods) == {
        **dict.fromkeys((0.05, 0.1), "wanda-5"),
        **dict.fromkeys((0.21,), "wanda-20"),
        0.9: "wanda-90",
    }


@pytest.mark.parametrize("sparsity", [0.05, 0.2, 0.5])
def test_a_split_is_the_optimum_of_a_sum_of_cubes(sparsity: float) -> None:
    """One sublayer and a kind for each matrix: nothing but its own effect tells of a matrix."""
    parts, effects = of_one_sublayer(300, 100, 600), np.array([0.02, 0.03, 0.03])
    sizes = np.array([300, 100, 600])
    found = np.array([*Split(parts, effects, "wanda-40").sparsities(sparsity).values()])
    best = minimize(
        lambda own: float((effects * own**3).sum() * 1e3),
        np.full(3, sparsity),
        constraints={"type": "eq", "fun": lambda own: float(own @ sizes) / 1000 - sparsity},
        bounds=[(0, 0.7)] * 3,
        tol=1e-12,
    )
    assert best.success
    assert found == pytest.approx(best.x, rel=2e-3)
    assert -1e-9 <= found @ sizes / 1000 - sparsity <= 1e-4  # rounded up


@pytest.mark.parametrize(("probe", "highest"), [("wanda-10", 0.3), ("wanda-30", 0.7)])
@pytest.mark.parametrize("sparsity", [0.01, 0.02, 0.3, 0.7, 0.94, 0.97])
def test_a_split_keeps_its_sublayers_sparsity_within_the_limits_of_its_matrices(
    sparsity: float, probe: str, highest: float
) -> None:
    parts = [
        MatrixGroup("attn.0", "a", 4000, 40),
        MatrixGroup("attn.0", "b", 1000, 40),
        MatrixGroup("attn.0", "c", 9000, 1000),
    ]
    for effects in ([1.0, 1e-9, 3.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1e-300, 1.0, 1e300], [-1e-9, 1.0, 1.0]):
        found = Split(parts, np.array(effects), probe).sparsities(sparsity)
        for part, own in found.items():
            assert min(sparsity, max(0.01, 2 / part.inputs)) - 1e-4 <= own <= max(highest, sparsity) + 1e-4
        total = sum(part.size * own for part, own in found.items())
        if sparsity > 0.05:
            assert total / 14_000 == pytest.approx(sparsity, abs=2e-4)
    even = Split(parts, np.zeros(3), probe).sparsities(0.3)
    assert {*even.values()} == {0.3}


def test_the_effect_of_a_matrix_is_shared_with_its_sublayer_and_its_kind() -> None:
    parts = [MatrixGroup(f"mlp.{layer}", name, 100, 1000) for layer in range(4) for name in ("up", "down")]
    effects = np.array([1.0, 4.0] * 4)
    effects[0] = 4.0  # one of them as an exception, perhaps by chance
    found = Split(parts, shrunk(parts, effects), "wanda-20").sparsities(0.2)
    own = {part.place: value for part, value in found.items()}
    alone = 0.2  # by its own effects, which are equal
    of_kind = own["mlp.1.up"] * 0.4 / (own["mlp.1.up"] + own["mlp.1.down"])
    assert alone < own["mlp.0.up"] < of_kind
    assert own["mlp.1.up"] == own["mlp.2.up"]


def test_the_names_of_a_split_recipe_say_each_matrixs_sparsity() -> None:
    parts = of_one_sublayer(300, 100)
    split = Split(parts, np.array([0.01, 0.3]), "sparsegpt-10")
    recipe = split.recipe("sparsegpt-20")
    assert (recipe.name, recipe.predecessors) == (f"sparsegpt-20{split.name}", "dense")
    assert split.name.startswith("-by-kl-")
    others = (Split(parts, np.array([0.01, 0.2]), "sparsegpt-10"), Split(parts, np.array([0.01, 0.3]), "wanda-10"))
    assert len({split.name, *(other.name for other in others)}) == 3
    assert Split(parts, np.array([0.01, 0.3]), "sparsegpt-10", "cos").name.startswith("-by-cos-")
    values = {part.place: own for part, own in split.sparsities(0.2).items()}
    assert {place: each.sparsity for place, each in recipe.matrix_recipes.items()} == pytest.approx(values)
    assert {each.name for each in recipe.matrix_recipes.values()} == {
        f"sparsegpt-{100 * own:g}" for own in values.values()
    }


@pytest.mark.third(2)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_effects_of_sublayers_are_near_those_that_their_matrices_predict(
    architecture: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    """Magnitudes at a half, once and twice the measured sparsity, split, against the engine."""
    decoder = tiny_decoder(architecture)
    names, probe = ("magnitude-10", "magnitude-20", "magnitude-40"), "magnitude-20"
    items, sublayers = items_of(decoder, 4, 40), {each.label: each for each in decoder.sublayers}
    groups = matrix_groups(sublayers)
    assert sum(group.size for group in groups) == sum(
        matrix.size for each in decoder.sublayers for matrix in each.matrices.values()
    )
    swaps = [group.swap(probe) for group in groups]
    effects = EffectEngine(decoder, Menu(decoder, names, Statistics()), items).measure(swaps)
    means = effects.kl.mean(axis=0)
    split = Split(groups, means, probe)
    menu = Menu(decoder, (), Statistics(), [split.recipe(name) for name in names])
    references = {f"{name}{split.name}": split.reference(name) for name in names}
    costs = predicted_effects(menu, references, dict(zip(swaps, means.tolist(), strict=True)))
    for name, (low, high) in zip(names, ((0.6, 1.6), (0.75, 1.3), (0.6, 1.6)), strict=True):
        own = [(label, f"{name}{split.name}") for label in menu.sublayers]
        measured = EffectEngine(decoder, menu, items).measure(own).kl.mean(axis=0)
        ratio = measured / np.array([costs[menu.places[swap]] for swap in own])
        assert low < np.median(ratio) < high, name
        assert np.abs(np.log(ratio)).max() < np.log(5), name
    kept = [index for index, option in enumerate(menu.options) if option.treatment == "keep"]
    assert (costs[kept] == 0).all()
    assert (np.delete(costs, kept) > 0).all()


def test_effects_are_drawn_together_and_keep_their_sum() -> None:
    parts = [MatrixGroup(f"mlp.{layer}", name, 100, 1000) for layer in range(6) for name in ("up", "down")]
    effects = np.random.default_rng(0).lognormal(0, 1.5, 12)
    found = shrunk(parts, effects)
    assert found.sum() == pytest.approx(effects.sum())
    assert np.log(found).std() < 0.8 * np.log(effects).std()
    # Effects that are the product of a sublayer's and a kind's share keep 0.8 of their differences.
    separable = np.outer([1, 2, 4, 8, 16, 32], [1, 3]).ravel().astype(float)
    moved = np.log(shrunk(parts, separable))
    assert moved - moved[0] == pytest.approx(0.8 * np.log(separable))
    assert shrunk(parts, 1e-300 * separable) == pytest.approx(1e-300 * shrunk(parts, separable), rel=1e-9)
    assert not shrunk(parts, np.zeros(12)).any()
    assert np.isfinite(shrunk(parts, np.append(np.zeros(11), 1.0))).all()
