"""Tests of magnitude, Wanda and RIA against their papers' formulas, in float64 and one weight at a time."""

import math

import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.masks import cumulative_shares, pattern_of
from prunescope.pipelines.pruning.methods import MatrixContext, change_of
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.pruning.reconstruction import correlated, inputs_of, random_weight

THRESHOLD = "{{name: w, method: wanda, sparsity: {}, group: threshold}}"


def mask_of(
    weight: Tensor, inputs: ActivationMoments | None, name: str, sparsity: float | None = None
) -> list[list[bool]]:
    change = change_of(MatrixContext("layers.0.q", weight, weight, None, inputs, sparsity), parse_recipe(name))
    assert change.values is None
    return change.mask.tolist()


def kept_of_lowest(scores: dict[tuple[int, int], float], count: int) -> set[tuple[int, int]]:
    """Return all positions but the `count` with the lowest scores; of equal ones the first are removed."""
    return set(sorted(scores, key=lambda place: (scores[place], place))[count:])


def norms(x: Tensor) -> list[float]:
    return [math.sqrt(sum(float(value) ** 2 for value in channel)) for channel in x.double().T]


def wanda_scores(weight: Tensor, x: Tensor) -> list[list[float]]:
    return [[abs(float(w)) * norm for w, norm in zip(row, norms(x), strict=True)] for row in weight.double()]


def ria_scores(weight: Tensor, x: Tensor, power: float) -> list[list[float]]:
    rows = [sum(abs(float(w)) for w in row) for row in weight.double()]
    columns = [sum(abs(float(w)) for w in column) for column in weight.double().T]
    return [
        [
            (abs(float(w)) / rows[i] + abs(float(w)) / columns[j]) * norm**power
            for j, (w, norm) in enumerate(zip(row, norms(x), strict=True))
        ]
        for i, row in enumerate(weight.double())
    ]


def by_rows(scores: list[list[float]], sparsity: float) -> list[list[bool]]:
    found = []
    for row in scores:
        kept = kept_of_lowest({(0, j): score for j, score in enumerate(row)}, round(sparsity * len(row)))
        found.append([(0, j) in kept for j in range(len(row))])
    return found


def by_matrix(scores: list[list[float]], sparsity: float) -> list[list[bool]]:
    places = {(i, j): score for i, row in enumerate(scores) for j, score in enumerate(row)}
    kept = kept_of_lowest(places, round(sparsity * len(places)))
    return [[(i, j) in kept for j in range(len(scores[0]))] for i in range(len(scores))]


def by_groups(scores: list[list[float]], n: int, m: int) -> list[list[bool]]:
    found = []
    for row in scores:
        kept: set[int] = set()
        for start in range(0, len(row), m):
            kept |= set(sorted(range(start, start + m), key=lambda j: (-row[j], j))[:n])
        found.append([j in kept for j in range(len(row))])
    return found


@pytest.mark.parametrize("shape", [(7, 24), (1, 24), (24, 4)])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.83])
def test_shares_follow_the_papers_scores(shape: tuple[int, int], sparsity: float) -> None:
    weight, x = random_weight(*shape), correlated(50, shape[1])
    inputs, share = inputs_of(x), f"{100 * sparsity:g}"
    sizes = weight.double().abs().tolist()
    assert mask_of(weight, None, f"magnitude-{share}", sparsity) == by_matrix(sizes, sparsity)
    assert mask_of(weight, inputs, f"wanda-{share}", sparsity) == by_rows(wanda_scores(weight, x), sparsity)
    assert mask_of(weight, inputs, f"ria-{share}", sparsity) == by_matrix(ria_scores(weight, x, 0.5), sparsity)
    recipe = f"{{name: r, method: ria, sparsity: {sparsity}, group: output, power: 2}}"
    assert mask_of(weight, inputs, recipe, sparsity) == by_rows(ria_scores(weight, x, 2), sparsity)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 3)])
def test_groups_keep_the_papers_highest_scores(n: int, m: int) -> None:
    weight, x = random_weight(5, 24), correlated(50, 24)
    inputs = inputs_of(x)
    assert mask_of(weight, None, f"magnitude-{n}of{m}") == by_groups(weight.abs().tolist(), n, m)
    assert mask_of(weight, inputs, f"wanda-{n}of{m}") == by_groups(wanda_scores(weight, x), n, m)
    assert mask_of(weight, inputs, f"ria-{n}of{m}") == by_groups(ria_scores(weight, x, 0.5), n, m)


def dropped_at(scores: list[list[float]], alpha: float) -> set[tuple[int, int]]:
    """Drop the lowest scores of every row while their sum is at most α of the row's (Wanda's appendix)."""
    found = set()
    for i, row in enumerate(scores):
        total = 0.0
        for j in sorted(range(len(row)), key=lambda j: (row[j], j)):
            total += row[j]
            if total > alpha * sum(row):
                break
            found.add((i, j))
    return found


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.77])
def test_thresholds_equal_a_bisection_for_the_papers_alpha(sparsity: float) -> None:
    weight, x = random_weight(6, 20), correlated(50, 20)
    # Rows of different distributions, so that their thresholds give different counts.
    weight = weight.sign() * weight.abs() ** torch.linspace(0.2, 3, 6)[:, None]
    scores, count = wanda_scores(weight, x), round(sparsity * weight.numel())
    low, high = 0.0, 1.0
    for _ in range(60):
        alpha = (low + high) / 2
        low, high = (alpha, high) if len(dropped_at(scores, alpha)) < count else (low, alpha)
    dropped = dropped_at(scores, high)
    assert len(dropped) == count
    mask = mask_of(weight, inputs_of(x), THRESHOLD.format(sparsity), sparsity)
    assert {(i, j) for i in range(6) for j in range(20) if not mask[i][j]} == dropped
    assert len({sum(row) for row in mask}) > 1, "rows may keep unlike counts"


def test_ties_at_the_threshold_are_dropped_in_index_order() -> None:
    weight = torch.ones(2, 4)
    mask = mask_of(weight, inputs_of(torch.ones(3, 4)), THRESHOLD.format(0.375), 0.375)
    assert mask == [[False, False, True, True], [False, True, True, True]]


def test_cumulative_shares_are_monotone_and_zero_in_a_row_of_zeros() -> None:
    found = cumulative_shares(torch.tensor([[3.0, 1.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0], [3e38, 3e38, 0.0, 3e38]]))
    assert found[0].tolist() == [0.5, 0.125, 0.0, 1.0]
    assert found[1].tolist() == [0.0] * 4
    assert found[2].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0, 1.0])


@pytest.mark.parametrize(
    "name", ["wanda-50", "ria-50", THRESHOLD.format(0.5), "{name: r, method: ria, sparsity: 0.5, group: output}"]
)
def test_weights_of_dead_channels_and_zeros_are_dropped_first(name: str) -> None:
    weight, x = random_weight(4, 8).abs() + 1, correlated(30, 8)
    x[:, 2:4] = 0
    weight[1] = 0
    weight[:, 6] = 0
    mask = torch.tensor(mask_of(weight, inputs_of(x), name, 0.5625))  # 18 of 32, of which 17 score 0
    assert not mask[[0, 2, 3]][:, [2, 3, 6]].any()


@pytest.mark.parametrize("name", ["wanda-50", "ria-50", THRESHOLD.format(0.5)])
def test_a_matrix_of_zeros_or_dead_inputs_is_masked_in_index_order(name: str) -> None:
    dead = mask_of(torch.ones(1, 4), inputs_of(torch.zeros(3, 4)), name, 0.5)
    zeros = mask_of(torch.zeros(1, 4), inputs_of(torch.ones(3, 4)), name, 0.5)
    assert dead == zeros == [[False, False, True, True]]


def test_a_pattern_is_detected_only_in_its_masks() -> None:
    groups = torch.tensor([[True, False, False, True], [True, True, False, False]])
    mask = groups[torch.randint(0, 2, (16, 6), generator=torch.Generator().manual_seed(0))].reshape(16, 24)
    assert pattern_of(mask) == (2, 4)
    mask[5, 3] = ~mask[5, 3]
    assert pattern_of(mask) is None
    assert pattern_of(torch.ones(3, 8, dtype=torch.bool)) is None
    assert pattern_of(torch.zeros(3, 8, dtype=torch.bool)) is None
    assert pattern_of(torch.ones(3, 1, dtype=torch.bool)) is None


@pytest.mark.parametrize("name", ["magnitude-2of4", "wanda-2of4", "ria-2of4", "sparsegpt-2of4", "admm-2of4"])
@pytest.mark.parametrize("channels", [1, 6])
def test_inputs_that_groups_do_not_divide_are_refused_by_name(name: str, channels: int) -> None:
    with pytest.raises(InputError, match=r"layers\.0\.q: 2:4 needs a multiple of 4"):
        mask_of(torch.ones(3, channels), inputs_of(torch.ones(4, channels)), name)


@pytest.mark.parametrize("damaged", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name",
    [
        *("magnitude-50", "wanda-50", THRESHOLD.format(0.5), "ria-50", "wanda-2of4", "sparsegpt-50", "sparsegpt-2of4"),
        *("admm-50", "rtn-4bit", "awq-4bit-g4", "gptq-4bit", "gptq-4bit-g8"),
    ],
)
def test_damaged_weights_are_a_failure_that_names_the_matrix(name: str, damaged: float) -> None:
    weight = random_weight(4, 8)
    weight[2, 3] = damaged
    with pytest.raises(ComputationError, match=r"layers\.0\.q: .*(NaN|infinite)"):
        mask_of(weight, inputs_of(correlated(30, 8)), name, 0.5)


@pytest.mark.parametrize("name", ["wanda-50", "ria-50", THRESHOLD.format(0.5), "awq-4bit"])
def test_damaged_activations_are_a_failure_that_names_the_matrix(name: str) -> None:
    x = correlated(30, 8)
    x[3, 3] = float("nan")
    with pytest.raises(ComputationError, match=r"layers\.0\.q: .*NaN"):
        mask_of(random_weight(4, 8), inputs_of(x), name, 0.5)
