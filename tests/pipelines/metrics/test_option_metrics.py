"""Option columns against scipy and plain float64 softmax."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import kendalltau

from prunescope.pipelines.metrics.option_metrics import option_row
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.warehouse.tables.option_subspace import TABLE

IDS, LABELS = (7, 3, 90, 41), ("A", "B", "C", "D")
HEAD = OutputHead(torch.eye(100))  # returns its input, so that a test sets logits exactly


def logits(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    dense = 3 * torch.randn(100, generator=generator)
    return dense, dense + torch.randn(100, generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_row_equals_a_float64_softmax(temperature):
    dense, pruned = logits(1)
    row = option_row(dense, pruned - dense, HEAD, IDS, LABELS, temperature)
    z, ids = dense.double().numpy(), list(IDS)
    w = z + (pruned - dense).double().numpy()
    p, q = softmax(z / temperature), softmax(w / temperature)
    for side, values, probabilities in (("dense", z, p), ("pruned", w, q)):
        assert row[f"argmax_{side}"] == LABELS[int(values[ids].argmax())]
        np.testing.assert_allclose(row[f"logits_{side}"], values[ids])
        np.testing.assert_allclose(row[f"p_full_{side}"], probabilities[ids], rtol=1e-12)
        np.testing.assert_allclose(row[f"p_options_{side}"], softmax(values[ids] / temperature), rtol=1e-12)
        assert row[f"mass_{side}"] == pytest.approx(probabilities[ids].sum())
        assert row[f"rank_{side}"] == [1 + int((values > values[token]).sum()) for token in ids]
    own, other = softmax(z[ids] / temperature), softmax(w[ids] / temperature)
    assert row["kl_options_dense_pruned_nats"] == pytest.approx(rel_entr(own, other).sum())
    assert row["kl_dense_pruned_nats"] == pytest.approx(rel_entr(p, q).sum())

    def defect(a: np.ndarray, b: np.ndarray) -> float:
        return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert row["one_minus_cos_p_options"] == pytest.approx(defect(own, other))
    assert row["one_minus_cos_z_options"] == pytest.approx(defect(z[ids], w[ids]))
    assert row["one_minus_cos_p"] == pytest.approx(defect(p, q))
    # The head returns its input, so that h and z are one space.
    assert row["one_minus_cos_h"] == pytest.approx(defect(z, w))
    assert row["one_minus_cos_z"] == pytest.approx(defect(z, w))
    assert row["kendall_tau"] == pytest.approx(kendalltau(z[ids], w[ids]).statistic)
    assert row["is_argmax_same"] == (row["argmax_dense"] == row["argmax_pruned"])


def test_equal_sides_differ_by_exactly_zero():
    dense, _ = logits(2)
    row = option_row(dense, torch.zeros_like(dense), HEAD, IDS, LABELS, 1.0)
    differences = {name: value for name, value in row.items() if name.startswith(("one_minus_cos", "kl"))}
    assert differences == dict.fromkeys(differences, 0)
    assert len(differences) == 7
    assert row["is_argmax_same"] is True
    assert row["kendall_tau"] == 1


def test_equal_logits_rank_by_token_and_choose_the_first_label():
    flat = torch.ones(100)
    row = option_row(flat, torch.zeros_like(flat), HEAD, IDS, LABELS, 1.0)
    assert row["rank_dense"] == [token + 1 for token in IDS]
    assert row["argmax_dense"] == "A"
    assert row["kendall_tau"] is None
    assert row["mass_dense"] == pytest.approx(0.04)


def test_ties_on_one_side_count_as_in_tau_b():
    dense = torch.zeros(100)
    pruned = dense.clone()
    dense[list(IDS)] = torch.tensor([1.0, 1.0, 2.0, 3.0])
    pruned[list(IDS)] = torch.tensor([1.0, 2.0, 4.0, 3.0])
    row = option_row(dense, pruned - dense, HEAD, IDS, LABELS, 1.0)
    # Four of the six pairs agree, one does not, and one is tied on the dense side: (4 − 1) / √(5 · 6).
    assert row["kendall_tau"] == pytest.approx(3 / 30**0.5)


def test_the_row_fills_every_column_of_the_table_that_derives_from_logits():
    from_elsewhere = {"model", "recipe", "prompt_id", "temperature", "options", "option_token_ids", "gold"}
    row = option_row(*logits(3), HEAD, IDS, LABELS, 1.0)
    assert set(row) == {column.name for column in TABLE.columns} - from_elsewhere
