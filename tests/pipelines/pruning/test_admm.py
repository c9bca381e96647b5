"""Tests that ADMM finds the least-squares weights of a mask."""

import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.pruning.methods import change_of
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.pruning.reconstruction import changed, context_of, correlated, error, inputs_of, random_weight


def least_squares(weight: Tensor, x: Tensor, mask: Tensor, damping: float) -> Tensor:
    """Return the best weights of a mask, row by row in float64: min ‖(w − q) X‖² + damping·Σ ‖x_j‖² (w_j − q_j)²."""
    gram = x.double().T @ x.double()
    gram.diagonal().mul_(1 + damping)
    best = torch.zeros_like(weight, dtype=torch.float64)
    for row, kept in enumerate(mask):
        best[row, kept] = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ weight[row].double())
    return best


def test_a_given_mask_converges_to_the_least_squares_weights() -> None:
    weight, x = random_weight(6, 16), correlated(60, 16)
    first = changed(weight, x, "wanda-50")
    best = least_squares(weight, x, first.mask, 0.1)
    away = []
    for iterations in (20, 100, 1000):
        change = changed(
            first.weight(weight),
            x,
            f"{{name: a, method: admm, iterations: {iterations}}}",
            dense=weight,
            mask=first.mask,
        )
        assert torch.equal(change.mask, first.mask)
        away.append(float((change.weight(weight).double() - best).norm() / best.norm()))
    assert away[0] > away[1] > away[2]
    assert away[2] < 1e-4


def test_rho_does_not_change_the_limit() -> None:
    weight, x = random_weight(6, 16), correlated(60, 16)
    first = changed(weight, x, "wanda-2of4")
    ends = [
        changed(weight, x, f"{{name: a, method: admm, iterations: 2000, rho: {rho}}}", mask=first.mask).weight(weight)
        for rho in (0.5, 1.0, 2.0)
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ends[2], ends[1], rtol=1e-3, atol=1e-3)


def test_one_iteration_is_the_published_update() -> None:
    weight, x = random_weight(3, 8), correlated(30, 8)
    mask = changed(weight, x, "wanda-50").mask
    norms = x.double().norm(dim=0)
    gram = (x.double() / norms).T @ (x.double() / norms) + 0.1 * torch.eye(8)
    scaled = weight.double() * norms
    dual = scaled * ~mask
    solved = torch.linalg.solve(gram + torch.eye(8), (scaled @ gram + scaled * mask - dual).T).T
    expected = (solved + dual) * mask / norms
    name = "{name: a, method: admm, iterations: 1, mask_iterations: 1}"
    found = changed(weight, x, name, mask=mask).weight(weight)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["50", "70", "2of4", "4of8"])
def test_on_correlated_inputs_admm_matches_sparsegpt_and_beats_its_mask_alone(pattern: str) -> None:
    weight, x = random_weight(48, 96), correlated(600, 96)
    solved, obs = (error(weight, changed(weight, x, f"{name}-{pattern}"), x) for name in ("admm", "sparsegpt"))
    assert solved < 1.05 * obs
    masked = changed(weight, x, f"wanda-{pattern}")
    updated = changed(masked.weight(weight), x, "admm", dense=weight, mask=masked.mask)
    assert torch.equal(updated.mask, masked.mask)
    assert error(weight, updated, x) < 0.7 * error(weight, masked, x)
    assert solved < error(weight, updated, x), "a mask that grows while weights move is better than Wanda's"


def test_the_mask_of_one_step_is_wandas_and_without_correlation_the_weights_stay() -> None:
    weight, x = random_weight(6, 16), torch.eye(16) * (torch.arange(16) + 1)
    change = changed(weight, x, "{name: a, method: admm, sparsity: 0.5, group: output, mask_iterations: 1}")
    assert torch.equal(change.mask, changed(weight, x, "wanda-50").mask)
    torch.testing.assert_close(change.weight(weight)[change.mask], weight[change.mask], rtol=1e-4, atol=1e-5)


def test_a_mask_of_n_of_m_is_reached_in_any_number_of_iterations() -> None:
    weight, x = random_weight(5, 24), correlated(100, 24)
    for steps in (1, 3, 7):
        fields = f"keep: 2, block: 3, iterations: {steps}, mask_iterations: {steps}, group: output"
        mask = changed(weight, x, f"{{name: a, method: admm, {fields}}}").mask
        assert (mask.reshape(5, -1, 3).sum(dim=2) == 2).all()


def test_admm_needs_a_pattern_unless_it_follows_a_mask() -> None:
    weight, x = random_weight(4, 8), correlated(20, 8)
    with pytest.raises(InputError, match="recipe admm: no mask to keep for m"):
        changed(weight, x, "admm")
    assert parse_recipe("wanda-50+admm").parts[1].sparsity is None


def test_matrices_with_the_same_inputs_share_one_solver() -> None:
    inputs = inputs_of(correlated(40, 16))
    for rows in (4, 8):
        context = context_of(random_weight(rows, 16), inputs, "admm-50")
        change_of(context, parse_recipe("admm-50"))
    assert len(inputs.derived) == 1


def test_an_indefinite_matrix_is_damped_in_steps_and_then_refused() -> None:
    weight, inputs = random_weight(4, 8), inputs_of(correlated(40, 8))
    # As rounding leaves it where inputs depend on each other: an eigenvalue a little below 0.
    values, vectors = torch.linalg.eigh(inputs.gram.double())
    values[0] = -1e-7 * values[-1]
    inputs.gram = (vectors * values @ vectors.T).to(inputs.gram.dtype)
    tiny = "{name: a, method: admm, sparsity: 0.5, rho: 1.0e-12, damping: 1.0e-12}"
    with pytest.raises(ComputationError, match=r"m: the Gram matrix .* not positive definite, .* damping 1e-09; raise"):
        changed(weight, inputs, tiny)
    context = context_of(weight, inputs, tiny)
    enough = parse_recipe(tiny.replace("damping: 1.0e-12", "damping: 1.0e-6"))
    change = change_of(context, enough)
    assert context.facts["damping_raised"] >= 1
    assert change.weight(weight).isfinite().all()
    assert int(change.mask.sum()) == 16
