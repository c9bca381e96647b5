"""Tests of SparseGPT and GPTQ against the optimal brain surgeon column by column."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.methods import MatrixContext, change_of
from prunescope.pipelines.pruning.methods.column_update import eager, sweep
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.pruning.obs_reference import slow_gptq, slow_sparsegpt
from tests.pipelines.pruning.reconstruction import changed, context_of, correlated, error, inputs_of, random_weight


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [(6, 20), (1, 17), (9, 12)])
@pytest.mark.parametrize("columns", [4, 8, 128])
def test_sparsegpt_equals_the_reference_with_an_explicit_inverse(shape: tuple[int, int], columns: int) -> None:
    weight, x = random_weight(*shape), correlated(64, shape[1])
    change = changed(weight, x, f"{{name: s, method: sparsegpt, sparsity: 0.5, columns: {columns}}}")
    expected, keep = slow_sparsegpt(weight, x, 0.5, columns)
    assert torch.equal(change.mask, keep)
    close(change.weight(weight), expected)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 3)])
def test_sparsegpt_chooses_n_of_m_when_the_sweep_reaches_them(n: int, m: int) -> None:
    weight, x = random_weight(7, 24), correlated(80, 24)
    for columns in (5, 8, 128):  # rounded up to a multiple of M
        change = changed(weight, x, f"{{name: s, method: sparsegpt, keep: {n}, block: {m}, columns: {columns}}}")
        expected, keep = slow_sparsegpt(weight, x, 0, 128, pattern=(n, m))
        assert torch.equal(change.mask, keep)
        assert (change.mask.reshape(7, -1, m).sum(dim=2) == n).all()
        close(change.weight(weight), expected)


@pytest.mark.parametrize(("group", "order"), [(None, False), (5, False), (8, False), (None, True), (8, True)])
def test_gptq_equals_the_reference_with_an_explicit_inverse(group: int | None, order: bool) -> None:
    weight, x = random_weight(6, 20), correlated(64, 20)
    fields = f"bits: 3, act_order: {str(order).lower()}" + (f", group: {group}" if group else "")
    change = changed(weight, x, f"{{name: q, method: gptq, {fields}}}")
    largest = x.double().square().sum(dim=0).argsort(descending=True).tolist() if order else None
    close(change.weight(weight), slow_gptq(weight, x, 3, group, largest))


@pytest.mark.parametrize("columns", [1, 7, 64])
def test_the_same_blocks_swept_row_by_row_and_column_by_column_are_equal(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    rows = 33
    current = torch.randn(rows, columns, generator=generator)
    square = torch.randn(2 * columns, columns, generator=generator)
    inverse = torch.linalg.inv(torch.linalg.cholesky(square.T @ square)).T.contiguous()
    kept = torch.rand(rows, columns, generator=generator) > 0.3
    groups = torch.arange(columns) // 5
    scales = torch.rand(rows, int(groups.max()) + 1, generator=generator) + 0.1
    zeros = torch.randint(0, 8, scales.shape, generator=generator).float()
    patterns = [(0, 0)] + [(n, m) for n, m in ((1, 2), (2, 4), (5, 16)) if columns % m == 0]
    for pattern in patterns:
        for grid in (None, (scales, zeros, groups)):
            steps = 0 if grid is None else 7
            weight, keep = sweep(current, inverse, kept, pattern, grid, steps)
            other, other_keep = eager(current, inverse, kept, pattern, grid, steps)
            assert torch.equal(keep, other_keep)
            torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-4)
            assert (weight[~keep] == 0).all()


def test_several_threads_give_the_numbers_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random_weight(64, 96), correlated(128, 96)
    alone = changed(weight, x, "sparsegpt-2of4")
    monkeypatch.setattr("prunescope.pipelines.pruning.methods.column_update._MIN_UPDATES_PER_THREAD", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shared = changed(weight, x, "sparsegpt-2of4")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(shared.weight(weight), alone.weight(weight))


def test_a_mask_of_the_required_sparsity_is_kept_and_solved_again() -> None:
    weight, x = random_weight(24, 64), correlated(400, 64)
    first = changed(weight, x, "wanda-50")
    again = changed(first.weight(weight), x, "sparsegpt-50", dense=weight, mask=first.mask)
    assert torch.equal(again.mask, first.mask)
    expected, _ = slow_sparsegpt(weight, x, 0.5, 128, kept=first.mask)
    close(again.weight(weight), expected)
    assert error(weight, again, x) < 0.7 * error(weight, first, x)


def test_on_correlated_inputs_sparsegpt_beats_wanda_beats_magnitude() -> None:
    weight, x = random_weight(48, 96), correlated(600, 96)
    for pattern in ("50", "2of4", "4of8"):
        obs, wanda, magnitude = (
            error(weight, changed(weight, x, f"{method}-{pattern}"), x)
            for method in ("sparsegpt", "wanda", "magnitude")
        )
        assert obs < 0.7 * wanda
        assert wanda < 0.7 * magnitude


def test_on_correlated_inputs_gptq_beats_rounding_to_the_nearest() -> None:
    weight, x = random_weight(48, 96), correlated(600, 96)
    for form in ("4bit", "3bit-g32", "2bit-g40"):
        solved, nearest = (error(weight, changed(weight, x, f"{name}-{form}"), x) for name in ("gptq", "rtn"))
        assert solved < 0.7 * nearest


def test_every_quantized_weight_is_on_its_grid_and_eight_bits_change_little() -> None:
    weight, x = random_weight(5, 21), correlated(50, 21)
    for symmetric in ("true", "false"):
        change = changed(weight, x, f"{{name: q, method: gptq, bits: 8, group: 8, symmetric: {symmetric}}}")
        assert change.codes.scales.shape == (5, 3), "the last group is shorter"
        assert change.mask is None
        assert error(weight, change, x) < 1e-4


def test_weights_masked_before_stay_exactly_zero_when_rounded() -> None:
    weight, x = random_weight(8, 32), correlated(100, 32)
    first = changed(weight, x, "wanda-50")
    pruned = first.weight(weight)
    for fields in ("bits: 4", "bits: 2, group: 8, symmetric: true", "bits: 3, act_order: true"):
        change = changed(pruned, x, f"{{name: q, method: gptq, {fields}}}", dense=weight, mask=first.mask)
        assert torch.equal(change.mask, first.mask)
        assert (change.weight(weight)[~first.mask] == 0).all()
    solved, nearest = (changed(pruned, x, f"{name}-4bit", dense=weight, mask=first.mask) for name in ("gptq", "rtn"))
    assert error(pruned, solved, x) < error(pruned, nearest, x)


def test_dead_channels_become_zero_and_are_counted() -> None:
    weight, x = random_weight(6, 16), correlated(50, 16)
    x[:, [3, 10]] = 0
    for name in ("sparsegpt-25", "sparsegpt-2of4", "gptq-4bit", "gptq-4bit-g8", "admm-50"):
        context = context_of(weight, x, name)
        changed_weight = change_of(context, parse_recipe(name)).weight(weight)
        assert (changed_weight[:, [3, 10]] == 0).all()
        assert torch.isfinite(changed_weight).all()
        assert context.facts["dead_channels"] == 2
    expected, keep = slow_sparsegpt(weight, x, 0.25, 128)
    change = changed(weight, x, "sparsegpt-25")
    assert torch.equal(change.mask, keep)
    close(change.weight(weight), expected)


def test_zero_inputs_leave_zero_weights() -> None:
    weight = random_weight(3, 8)
    for name in ("sparsegpt-50", "gptq-4bit", "admm-50"):
        assert (changed(weight, torch.zeros(5, 8), name).weight(weight) == 0).all()


def test_a_row_of_zeros_stays_zero() -> None:
    weight, x = random_weight(4, 16), correlated(50, 16)
    weight[2] = 0
    for name in ("sparsegpt-50", "sparsegpt-2of4", "gptq-3bit", "gptq-4bit-g8", "admm-50", "admm-2of4"):
        pruned = changed(weight, x, name).weight(weight)
        assert (pruned[2] == 0).all()
        assert (pruned[[0, 1, 3]] != 0).any(dim=1).all()


def test_one_token_and_one_row_are_enough() -> None:
    weight, x = random_weight(1, 12), correlated(1, 12)
    for name in ("sparsegpt-50", "sparsegpt-2of4", "gptq-4bit", "admm-50"):
        change = changed(weight, x, name)
        assert torch.isfinite(change.weight(weight)).all()
        assert change.mask is None or int(change.mask.sum()) == 6
    expected, keep = slow_sparsegpt(weight, x, 0.5, 128)
    change = changed(weight, x, "sparsegpt-50")
    assert torch.equal(change.mask, keep)
    close(change.weight(weight), expected)


def test_fewer_tokens_than_channels_raise_a_damping_that_is_too_small() -> None:
    weight, x = random_weight(4, 40), correlated(3, 40)
    for damping, is_raised in ((0.01, False), (1e-9, True)):
        name = f"{{name: s, method: sparsegpt, sparsity: 0.5, damping: {damping:.10f}}}"
        context = context_of(weight, x, name)
        assert torch.isfinite(change_of(context, parse_recipe(name)).weight(weight)).all()
        assert (context.facts["damping_raised"] > 0) == is_raised


@pytest.mark.parametrize(("damping", "raised"), [(2e-3, 0), (5e-4, 1), (5e-5, 2), (5e-6, 3), (5e-7, None)])
def test_damping_is_raised_three_times_and_then_the_matrix_is_refused(damping: float, raised: int | None) -> None:
    inputs = ActivationMoments(2)
    inputs.tokens, inputs.gram = 1, torch.tensor([[1.0, 1.001], [1.001, 1.0]])  # an eigenvalue of −0.001
    name = f"{{name: q, method: gptq, bits: 4, damping: {damping:.8f}}}"
    context = context_of(random_weight(3, 2), inputs, name)
    if raised is None:
        with pytest.raises(ComputationError, match=r"m: the Gram matrix .* damping 0\.0005; raise `damping`"):
            change_of(context, parse_recipe(name))
        return
    change_of(context, parse_recipe(name))
    assert context.facts["damping_raised"] == raised
    factor = inputs.derived["factor", damping, False]
    assert (factor.root.tril(-1) == 0).all()
    damped = inputs.gram + torch.eye(2) * damping * 10**raised
    torch.testing.assert_close(factor.root @ factor.root.T, damped)


def test_damaged_sums_and_overflowing_weights_are_refused() -> None:
    weight, x = random_weight(4, 8), correlated(20, 8)
    for name in ("sparsegpt-50", "gptq-4bit", "admm-50"):
        inputs = inputs_of(x)
        inputs.gram[2, 5] = float("nan")
        with pytest.raises(ComputationError, match="m: the Gram matrix"):
            changed(weight, inputs, name)
        with pytest.raises(InputError, match="no calibration token"):
            change_of(MatrixContext("m", weight, weight, sparsity=0.5), parse_recipe(name))
    # What its later columns compensate overflows.
    with pytest.raises(ComputationError, match="NaN or infinite"):
        changed(3.4e38 * weight.sign() * random_weight(4, 8, seed=1).abs().clamp(0.9, 1), x, "gptq-4bit-g4")
    with pytest.raises(ComputationError, match="NaN or infinite"):
        changed(1e21 * weight, torch.eye(8), "awq-4bit")


def test_a_layer_with_sparsity_zero_is_unchanged() -> None:
    weight, x = random_weight(4, 16), correlated(40, 16)
    for name in ("sparsegpt-50", "admm-50"):
        assert change_of(replace(context_of(weight, x, name), sparsity=0.0), parse_recipe(name)) is None
        kept = weight > 0
        context = replace(context_of(weight, x, name, mask=kept), sparsity=0.0)
        assert torch.equal(change_of(context, parse_recipe(name)).mask, kept), "an earlier mask is solved for"


def test_matrices_with_the_same_inputs_share_one_factor() -> None:
    inputs = inputs_of(correlated(40, 16))
    for rows in (4, 8):
        changed(random_weight(rows, 16), inputs, "sparsegpt-50")
    (factor,) = inputs.derived.values()
    changed(random_weight(4, 16), inputs, "gptq-4bit")
    assert list(inputs.derived.values()) == [factor]
    changed(random_weight(4, 16), inputs, "{name: q, method: gptq, bits: 4, damping: 0.1}")
    assert len(inputs.derived) == 2


def test_values_have_the_models_type() -> None:
    weight, x = random_weight(4, 16).bfloat16(), correlated(40, 16)
    for name in ("sparsegpt-50", "admm-50"):
        change = changed(weight, x, name)
        assert change.values.dtype == change.weight(weight).dtype == torch.bfloat16


@pytest.mark.third(1)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_solved_weights_move_the_output_of_a_decoder_less(
    architecture: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    tokens = torch.randint(3, 300, (6, 40), generator=torch.Generator().manual_seed(0))
    dense = decoder.hidden(tokens)
    loss = {}
    for name in ("wanda-50", "sparsegpt-50", "sparsegpt-2of4", "gptq-4bit-g16", "wanda-50+gptq-4bit", "wanda-50+admm"):
        variant = prune(decoder, parse_recipe(name), tokens=tokens)
        assert len(variant.changes) == len(decoder.matrices)
        with apply_variant(decoder, variant):
            loss[name] = float((decoder.hidden(tokens) - dense).square().mean())
    assert loss["gptq-4bit-g16"] < loss["sparsegpt-50"] < loss["wanda-50"]
    assert loss["wanda-50+admm"] < loss["wanda-50"]
