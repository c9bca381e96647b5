"""Tests of SparseGPT and GPTQ against the optimal brain surgeon column by column, and of their exact counts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.methods import MatrixContext, change_of
from prunescope.pipelines.pruning.methods.column_update import eager, sweep
from prunescope.pipelines.pruning.methods.quantization_grid import grids
from prunescope.pipelines.pruning.variant import load_variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
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


integers = st.integers(1, 5).flatmap(
    lambda rows: st.integers(1, 6).flatmap(
        lambda groups: st.lists(
            st.lists(st.integers(-2, 2), min_size=4 * groups, max_size=4 * groups), min_size=rows, max_size=rows
        )
    )
)


@drawn(integers, st.integers(1, 99), st.sampled_from(["block", "output"]), st.sampled_from([3, 4, 128]))
@settings(deadline=None)
def test_tied_weights_lose_exactly_their_share(values: list[list[int]], percent: int, group: str, columns: int) -> None:
    weight = torch.tensor(values).float()
    size = weight.numel() if group == "block" else weight.shape[1]
    assume(round(percent / 100 * size) < size)
    x = torch.eye(weight.shape[1])  # equal inputs: scores tie wherever weights do
    name = f"{{name: s, method: sparsegpt, sparsity: {percent / 100}, group: {group}, columns: {columns}}}"
    mask = changed(weight, x, name).mask
    units = mask.reshape(1, -1) if group == "block" else mask
    for unit, whole in zip(units, weight.abs().reshape(units.shape), strict=True):
        assert int((~unit).sum()) == round(percent / 100 * len(unit))
        if columns == 128 and unit.any() and not unit.all():
            assert whole[~unit].max() <= whole[unit].min()


@drawn(integers, st.integers(1, 3))
@settings(deadline=None)
def test_tied_weights_keep_exactly_n_of_m(values: list[list[int]], n: int) -> None:
    weight = torch.tensor(values).float()
    mask = changed(weight, torch.eye(weight.shape[1]), f"sparsegpt-{n}of4").mask
    for group, kept in zip(weight.abs().reshape(-1, 4), mask.reshape(-1, 4), strict=True):
        assert int(kept.sum()) == n
        assert group[~kept].max() <= group[kept].min()


@drawn(st.integers(0, 100), st.integers(1, 98), st.sampled_from(["block", "output"]))
@settings(deadline=None)
def test_masked_weights_stay_masked_and_count(seed: int, percent: int, group: str) -> None:
    weight, x = random_weight(4, 30, seed), correlated(40, 30, seed)
    kept = torch.rand(4, 30, generator=torch.Generator().manual_seed(seed)) > seed / 100
    name = f"{{name: s, method: sparsegpt, sparsity: {percent / 100}, group: {group}, columns: 7}}"
    mask = changed(weight * kept, x, name, dense=weight, mask=kept).mask
    assert not (mask & ~kept).any()
    units = (1, -1) if group == "block" else (4, 30)
    for unit, before in zip(mask.reshape(units), kept.reshape(units), strict=True):
        assert int((~unit).sum()) == max(round(percent / 100 * len(unit)), int((~before).sum()))
    pattern = changed(
        weight[:, :28] * kept[:, :28], x[:, :28], "sparsegpt-2of4", dense=weight[:, :28], mask=kept[:, :28]
    )
    both = pattern.mask.reshape(-1, 4).sum(dim=1)
    assert torch.equal(both, kept[:, :28].reshape(-1, 4).sum(dim=1).clamp(max=2))
    assert not (pattern.mask & ~kept[:, :28]).any()


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


def rounded_to_nearest(weight: Tensor, bits: int, group: int) -> Tensor:
    scales, zeros = grids(weight, bits, group, symmetric=False)
    spread = torch.arange(weight.shape[1]) // group
    codes = ((weight / scales[:, spread]).round() + zeros[:, spread]).clamp(0, 2**bits - 1)
    return (codes - zeros[:, spread]) * scales[:, spread]


def test_on_correlated_inputs_gptq_beats_rounding_to_the_nearest() -> None:
    weight, x = random_weight(48, 96), correlated(600, 96)
    for name, bits, group in (("gptq-4bit", 4, 96), ("gptq-3bit-g32", 3, 32), ("gptq-2bit-g40", 2, 40)):
        nearest = error(weight, WeightDelta.valued(rounded_to_nearest(weight, bits, group)), x)
        assert error(weight, changed(weight, x, name), x) < 0.7 * nearest


def test_every_quantized_weight_is_on_its_grid_and_eight_bits_change_little() -> None:
    weight, x = random_weight(5, 21), correlated(50, 21)
    for symmetric in ("true", "false"):
        change = changed(weight, x, f"{{name: q, method: gptq, bits: 8, group: 8, symmetric: {symmetric}}}")
        assert change.codes is not None
        assert change.codes.scales.shape == (5, 3), "the last group is shorter"
        assert change.mask is None
        assert error(weight, change, x) < 1e-4


def test_weights_masked_before_stay_exactly_zero_when_rounded() -> None:
    weight, x = random_weight(8, 32), correlated(100, 32)
    first = changed(weight, x, "wanda-50")
    for fields in ("bits: 4", "bits: 2, group: 8, symmetric: true", "bits: 3, act_order: true"):
        change = changed(first.weight(weight), x, f"{{name: q, method: gptq, {fields}}}", dense=weight, mask=first.mask)
        assert torch.equal(change.mask, first.mask)
        assert (change.weight(weight)[~first.mask] == 0).all()
        nearest = first.mask * rounded_to_nearest(first.weight(weight), 4, 32)
        if fields == "bits: 4":
            pruned = first.weight(weight)
            assert error(pruned, change, x) < error(pruned, WeightDelta.valued(nearest), x)


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


def test_damaged_sums_and_weights_are_refused() -> None:
    weight, x = random_weight(4, 8), correlated(20, 8)
    for name in ("sparsegpt-50", "gptq-4bit", "admm-50"):
        inputs = inputs_of(x)
        inputs.gram[2, 5] = float("nan")
        with pytest.raises(ComputationError, match="m: the Gram matrix"):
            changed(weight, inputs, name)
        with pytest.raises(InputError, match="no calibration token"):
            change_of(MatrixContext("m", weight, weight, sparsity=0.5), parse_recipe(name))
    broken = weight.clone()
    broken[1, 1] = float("nan")
    for name in ("sparsegpt-50", "sparsegpt-2of4", "gptq-4bit", "gptq-4bit-g8", "admm-50"):
        with pytest.raises(ComputationError, match="NaN"):
            changed(broken, x, name)
    # What its later columns compensate overflows.
    with pytest.raises(ComputationError, match="NaN or infinite"):
        changed(3.4e38 * weight.sign() * random_weight(4, 8, seed=1).abs().clamp(0.9, 1), x, "gptq-4bit-g4")
    with pytest.raises(ComputationError, match="NaN or infinite"):
        changed(1e21 * weight, torch.eye(8), "awq-4bit")
    with pytest.raises(InputError, match="multiple of 3 inputs"):
        changed(weight, x, "sparsegpt-1of3")


def test_a_layer_with_sparsity_zero_is_unchanged() -> None:
    weight, x = random_weight(4, 16), correlated(40, 16)
    for name in ("sparsegpt-50", "admm-50"):
        assert change_of(replace(context_of(weight, x, name), sparsity=0.0), parse_recipe(name)) is None
        kept = weight > 0
        context = replace(context_of(weight, x, name, mask=kept), sparsity=0.0)
        assert torch.equal(change_of(context, parse_recipe(name)).mask, kept), "an earlier mask is solved for"


def test_the_kernel_for_other_devices_gives_the_same_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random_weight(16, 304), correlated(900, 304)
    names = ("sparsegpt-50", "sparsegpt-4of8", "gptq-4bit-g128", "gptq-3bit")
    compiled = [changed(weight, x, name) for name in names]
    monkeypatch.setattr("prunescope.pipelines.pruning.methods.obs.sweep", eager)
    for name, change in zip(names, compiled, strict=True):
        plain = changed(weight, x, name).weight(weight)
        same = (plain - change.weight(weight)).abs() < 1e-3
        assert same.float().mean() > 0.999, "rounding may tip a tie"


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
        assert change.values is not None
        assert change.values.dtype == change.weight(weight).dtype == torch.bfloat16


@pytest.mark.third(1)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_pruned_and_quantized_decoders_load_bit_for_bit(
    architecture: str, tmp_path: Path, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    tokens = torch.randint(3, 300, (6, 40), generator=torch.Generator().manual_seed(0))
    dense = decoder.hidden(tokens)
    loss = {}
    for name in ("sparsegpt-50", "sparsegpt-2of4", "gptq-4bit-g16", "wanda-50+gptq-4bit", "admm-50", "wanda-50+admm"):
        recipe = parse_recipe(name)
        variant = prune(decoder, recipe, tokens=tokens)
        variant.save(tmp_path / "v.safetensors", recipe, "weights")
        again = load_variant(tmp_path / "v.safetensors", "weights")
        assert again.facts == variant.facts
        with apply_variant(decoder, variant):
            first = decoder.hidden(tokens)
        with apply_variant(decoder, again):
            assert torch.equal(decoder.hidden(tokens), first)
        assert torch.equal(decoder.hidden(tokens), dense)
        loss[name] = float((first - dense).square().mean())
        for matrix, mask in variant.masks.items():
            if "-50" in name:
                assert int(mask.sum()) * 2 == mask.numel(), matrix
        assert len(variant.changes) == len(decoder.matrices)
    masked = prune(decoder, parse_recipe("wanda-50"), tokens=tokens)
    with apply_variant(decoder, masked):
        wanda = float((decoder.hidden(tokens) - dense).square().mean())
    assert loss["gptq-4bit-g16"] < loss["sparsegpt-50"] < wanda
    assert loss["wanda-50+admm"] < wanda
