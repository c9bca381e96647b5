"""Tests that masks keep exactly the required number of weights, ties included."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.masks import keep_n_of_m, keep_share


@st.composite
def scores_with_ties(draw: st.DrawFn, multiple: int = 1) -> Tensor:
    rows = draw(st.integers(1, 6))
    columns = draw(st.integers(1, 12)) * multiple
    # Few distinct values, as in quantized weights: most comparisons are ties.
    score = st.sampled_from([0.0, 0.5, 0.5, 1.0, 3e38])
    values = draw(st.lists(score, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values).reshape(rows, columns)


@given(scores_with_ties(), st.floats(0.01, 0.99), st.sampled_from(["matrix", "output"]))
def test_a_share_drops_exactly_its_count_of_the_lowest_scores(scores: Tensor, sparsity: float, group: str) -> None:
    size = scores.numel() if group == "matrix" else scores.shape[1]
    assume(round(sparsity * size) < size)
    keep = keep_share(scores, sparsity, group)
    groups = (
        zip(scores.reshape(1, -1), keep.reshape(1, -1), strict=True)
        if group == "matrix"
        else zip(scores, keep, strict=True)
    )
    for values, kept in groups:
        assert int((~kept).sum()) == round(sparsity * len(values))
        if kept.any() and not kept.all():
            assert values[~kept].max() <= values[kept].min()


@given(scores_with_ties(multiple=4), st.integers(1, 3))
def test_n_of_m_keeps_exactly_n_of_every_group_and_the_highest(scores: Tensor, keep: int) -> None:
    mask = keep_n_of_m(scores, keep, 4)
    for values, kept in zip(scores.reshape(-1, 4), mask.reshape(-1, 4), strict=True):
        assert int(kept.sum()) == keep
        assert values[~kept].max() <= values[kept].min()


def test_equal_scores_are_dropped_in_index_order() -> None:
    assert keep_share(torch.ones(1, 4), 0.5, "output").tolist() == [[False, False, True, True]]
    assert keep_n_of_m(torch.ones(1, 4), 2, 4).tolist() == [[True, True, False, False]]


def test_only_counts_over_the_whole_matrix_may_empty_a_row() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert keep_share(scores, 0.5, "matrix").tolist() == [[False, False], [True, True]]
    assert keep_share(scores, 0.5, "output").tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("order", ["random", "sorted", "misleading", "tied", "few"])
@pytest.mark.parametrize("sparsity", [0.001, 0.3, 0.5, 0.999])
def test_the_threshold_of_a_whole_matrix_is_exact_in_any_order(order: str, sparsity: float) -> None:
    values = torch.randn(60, 97, generator=torch.Generator().manual_seed(1)).abs()
    if order == "sorted":
        values = values.reshape(-1).sort().values.reshape(values.shape)
    elif order == "misleading":
        values[:, 0] += 100  # the sample sees this column only
    elif order == "tied":
        values = values.round()
    elif order == "few":
        values, sparsity = values[:1, :7], min(sparsity, 0.9)
    mask = keep_share(values, sparsity, "matrix")
    count = round(sparsity * values.numel())
    assert int((~mask).sum()) == count
    expected = torch.ones(values.numel(), dtype=torch.bool)
    expected[values.reshape(-1).sort(stable=True).indices[:count]] = False
    assert torch.equal(mask.reshape(-1), expected)


def test_no_share_below_one_drops_a_whole_group() -> None:
    scores = torch.rand(3, 64)
    with pytest.raises(InputError, match=r"sparsity 0\.999 of a group of 64 weights would drop all of them; lower it"):
        keep_share(scores, 0.999, "output")
    assert int(keep_share(scores, 0.99, "output").sum()) == 3
    assert int(keep_share(scores, 0.99, "matrix").sum()) == 2
    assert not keep_share(scores, 1.0, "output").any()
