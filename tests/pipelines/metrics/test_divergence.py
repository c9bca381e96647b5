"""Every divergence column against closed forms, scipy and the float64 reference, on awkward input."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from torch import Tensor

from prunescope.pipelines.metrics import eager_kernels, fused_kernels, logit_blocks
from prunescope.pipelines.metrics.divergence import NumericalError, divergence, divergences
from prunescope.pipelines.metrics.logit_blocks import Workspace
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.warehouse.tables.columns import DIVERGENCE
from tests.examples import examples
from tests.pipelines.metrics.logit_samples import (
    COLUMN_NAMES,
    DENSE,
    ORDER,
    RANKING,
    SEEDS,
    SHIFT,
    TEMPERATURES,
    WITHOUT_SHIFT_ZERO,
    assert_matches,
    assert_same_columns,
    identity_head,
    logits_and_shift,
    on_grid,
    sum_columns,
)
from tests.pipelines.metrics.reference import divergence_reference

SIZES = st.sampled_from([2, 3, 6, 129, 1100])
# Beyond MAX_EXACT, where kernels omit tokens; the product with an identity of this size takes a tenth of a second.
ALL_SIZES = st.sampled_from([2, 3, 6, 129, 1100, 4100])


@pytest.fixture(scope="module", autouse=True)
def _large_heads_go() -> Iterator[None]:
    yield
    identity_head.cache_clear()


@given(DENSE, SHIFT, ALL_SIZES, SEEDS, TEMPERATURES)
def test_every_column_matches_the_float64_reference(dense, shift, size, seed, temperature):
    z, dz = logits_and_shift(dense, shift, 5, size, seed)
    head = identity_head(size)
    measured = divergence(z, dz, head, [temperature])
    # A tiny shift is rounded away or ties tokens when it is added to a float32 logit.
    skip = frozenset(RANKING) if shift in ("tiny", "parallel") else frozenset()
    truth = divergence_reference(z, dz, identity_head(size, torch.float64), temperature)
    assert_matches(measured, truth, temperature, skip=skip)


@settings(max_examples=examples(60))
@given(SIZES, SEEDS, st.sampled_from([1, 3, 40]))
def test_ties_go_to_the_lowest_token_on_both_sides(size, seed, levels):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(1, levels + 1, (6, size), generator=generator).float()
    dz = torch.randint(-1, 2, (6, size), generator=generator).float()
    dz[:, 0] += 1
    measured = divergence(z, dz, identity_head(size), [1.0])
    truth = divergence_reference(z, dz, identity_head(size, torch.float64), 1.0)
    for name in sorted(ORDER):
        np.testing.assert_array_equal(measured[name][0], truth[name].numpy().astype(measured[name].dtype), err_msg=name)


@pytest.mark.parametrize("shift", [1e-9, 1e-6, 1e-4, 1e-2, 1.0, 20.0, 80.0, 800.0, 1e5])
def test_two_tokens_follow_the_closed_forms_from_tiny_to_enormous_shifts(shift):
    measured = divergence(torch.tensor([[1.0, 1.0]]), torch.tensor([[shift, -shift]]), identity_head(2), [1.0])
    # p = (½, ½) and δ = ±s: KL(p‖q) = log cosh s, TV = ½ tanh s, KL(q‖p) = s tanh s − log cosh s.
    s = float(np.float32(shift))
    log_cosh = math.log1p(2 * math.sinh(s / 2) ** 2) if s < 1 else s + math.log1p(math.exp(-2 * s)) - math.log(2)
    kl_reverse = s * math.tanh(s) - log_cosh if s > 1e-3 else s**2 / 2
    assert measured["kl_dense_pruned_nats"][0, 0] == pytest.approx(log_cosh, rel=1e-4, abs=0)
    assert measured["kl_pruned_dense_nats"][0, 0] == pytest.approx(kl_reverse, rel=1e-4, abs=0)
    assert measured["total_variation"][0, 0] == pytest.approx(math.tanh(s) / 2, rel=1e-5, abs=0)
    assert measured["var_p_dz"][0, 0] == pytest.approx(s**2, rel=1e-5, abs=0)
    q = 1 / (1 + math.exp(-2 * s))
    # Two values 2s apart with weights w and 1 − w have the variance 4 s² w (1 − w).
    tail = math.exp(-2 * s)
    for name, ratio in (("var_q_dz", tail), ("var_rq_dz", tail**2)):
        assert measured[name][0, 0] == pytest.approx(4 * s**2 * ratio / (1 + ratio) ** 2, rel=1e-4, abs=1e-30), name
    js = sum(rel_entr(a, (a + b) / 2) + rel_entr(b, (a + b) / 2) for a, b in ((0.5, q), (0.5, 1 - q))) / 2
    assert measured["js_nats"][0, 0] == pytest.approx(js if s > 1e-3 else s**2 / 8, rel=1e-4, abs=0)
    cosine = 1 / math.sqrt(1 + math.tanh(s) ** 2)
    assert measured["one_minus_cos_p"][0, 0] == pytest.approx(1 - cosine if s > 1e-3 else s**2 / 2, rel=1e-4, abs=0)


@pytest.mark.parametrize("lift", [0.0, 512.0])
@pytest.mark.parametrize("apart", [2.0**-10, 1.0, 8.0])
def test_variances_under_the_pruned_weights_count_tokens_that_the_dense_weights_do_not(apart: float, lift: float):
    # All of p is on the first token, all of q on two others, whose shifts are close beside that of the first.
    z, dz = torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([[0.0, 128.0, 128.0 + apart]]) + lift
    measured = divergence(z, dz, identity_head(3), [1.0])
    for name, ratio in (("var_q_dz", math.exp(-apart)), ("var_rq_dz", math.exp(-2 * apart))):
        assert measured[name][0, 0] == pytest.approx(apart**2 * ratio / (1 + ratio) ** 2, rel=1e-5, abs=0), name


@pytest.mark.parametrize("shift", [7e3, 2.3e4, 1e5])
def test_the_far_smaller_of_the_two_divergences_keeps_its_digits(shift):
    # A token of p = 1e-3 becomes impossible: KL(p‖q) is about p times the shift, KL(q‖p) = −log(1 − p) about p.
    z = torch.tensor([[math.log(999.0), 0.0]])
    measured = divergence(z, torch.tensor([[0.0, -shift]]), identity_head(2), [1.0])
    p = 1 / (1 + math.exp(float(z[0, 0])))
    assert measured["kl_dense_pruned_nats"][0, 0] == pytest.approx(math.log1p(-p) + p * shift, rel=1e-5)
    assert measured["kl_pruned_dense_nats"][0, 0] == pytest.approx(-math.log1p(-p), rel=1e-5)
    mixed = -(1 - p) * math.log1p(p / (2 * (1 - p))) + p * math.log(2) - math.log1p(-p / 2)
    assert measured["js_nats"][0, 0] == pytest.approx(mixed / 2, rel=1e-5)


def test_divergences_agree_with_scipy():
    generator = torch.Generator().manual_seed(1)
    z, dz = torch.randn(8, 50, generator=generator), torch.randn(8, 50, generator=generator)
    measured = divergence(z, dz, identity_head(50), [0.7])
    p, q = softmax(z.double().numpy() / 0.7, axis=-1), softmax((z + dz).double().numpy() / 0.7, axis=-1)
    np.testing.assert_allclose(measured["kl_dense_pruned_nats"][0], rel_entr(p, q).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(measured["kl_pruned_dense_nats"][0], rel_entr(q, p).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(measured["js_nats"][0], jensenshannon(p, q, axis=-1) ** 2, rtol=1e-5)


@settings(max_examples=examples(40))
@given(DENSE, SHIFT, SIZES, SEEDS, TEMPERATURES)
def test_a_constant_on_every_logit_shift_changes_nothing_in_p(dense, shift, size, seed, temperature):
    z, dz = logits_and_shift(dense, shift, 4, size, seed)
    dz = on_grid(dz)
    moved = divergence(z, dz, identity_head(size), [temperature])
    lifted = divergence(z, dz + 3, identity_head(size), [temperature])
    for name in COLUMN_NAMES:
        if not name.endswith(("_h", "_z")) and name not in ("norm_dh", "norm_dz"):
            atol = 1e-3 if name.startswith("identity") else 2e-6  # itself a rounding error, of shifts in the hundreds
            np.testing.assert_allclose(lifted[name], moved[name], rtol=1e-3, atol=atol, err_msg=name)


@settings(max_examples=examples(40))
@given(DENSE, SHIFT, SIZES, SEEDS, TEMPERATURES)
def test_total_variation_stays_below_pinskers_bound_and_js_below_log_two(dense, shift, size, seed, temperature):
    measured = divergence(*logits_and_shift(dense, shift, 4, size, seed), identity_head(size), [temperature])
    for name in ("kl_dense_pruned_nats", "kl_pruned_dense_nats"):
        assert (measured["total_variation"] <= np.sqrt(measured[name] / 2) * 1.001 + 1e-6).all()
    assert (measured["js_nats"] <= 0.693148).all()
    assert (measured["total_variation"] <= 1.000001).all()
    assert (measured["is_top1_same"] == (measured["rank_of_dense_top1"] == 1)).all()


@settings(max_examples=examples(30))
@given(DENSE, ALL_SIZES, SEEDS, TEMPERATURES)
def test_a_shift_of_zero_is_exactly_zero_and_costs_only_the_dense_side(dense, size, seed, temperature):
    z, _ = logits_and_shift(dense, "zero", 4, size, seed)
    head = identity_head(size)
    measured = divergence(z, torch.zeros_like(z), head, [temperature, 1.0])
    for name in WITHOUT_SHIFT_ZERO:
        assert not measured[name].any(), name
    assert measured["is_top1_same"].all()
    assert (measured["rank_of_dense_top1"] == 1).all()
    assert (measured["topk5_overlap"] == 1).all()
    untouched = divergence(z, None, head, [temperature, 1.0])
    for name in COLUMN_NAMES:
        np.testing.assert_array_equal(untouched[name], measured[name], err_msg=name)
        assert untouched[name].dtype == measured[name].dtype


def model_like(rows: int) -> tuple[OutputHead, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    head = OutputHead(torch.randn(1013, 24, generator=generator), torch.randn(1013, generator=generator))
    x, near, far = (torch.randn(rows, 24, generator=generator) for _ in range(3))
    return head, x, 0.05 * near, 2 * far


def test_a_real_head_with_a_bias_matches_the_float64_reference():
    head, x, near, far = model_like(40)
    for shift in (near, far, 1e-4 * near, -x / 2):
        measured = divergence(x, shift, head, [1.0])
        assert_matches(measured, divergence_reference(x, shift, head, 1.0), 1.0, skip=frozenset(ORDER))


@pytest.mark.parametrize(("scale", "cap"), [(0.0625, None), (3.0, None), (1.0, 30.0), (0.5, 2.0)])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_scaled_and_capped_heads_match_the_float64_reference(scale, cap, temperature):
    head, x, near, far = model_like(40)
    head = replace(head, scale=scale, cap=cap)
    for shift in (near, far, 1e-4 * near, -x / 2):
        measured = divergence(x, shift, head, [temperature])
        truth = divergence_reference(x, shift, head, temperature)
        # A low cap makes many logits equal in float32, so that another token may come first.
        assert_matches(measured, truth, temperature, skip=frozenset(RANKING if cap == 2.0 else ORDER))


def test_several_shifts_at_once_equal_one_at_a_time():
    head, x, near, far = model_like(40)
    together = divergences(x, [near, far], head, [0.5, 1.0])
    for shift, measured in zip((near, far), together, strict=True):
        alone = divergence(x, shift, head, [0.5, 1.0])
        for name in COLUMN_NAMES:
            np.testing.assert_array_equal(measured[name], alone[name], err_msg=name)


@pytest.mark.parametrize("block_rows", [1, 2, 7, 64, 1000])
def test_the_block_size_changes_nothing_but_rounding(block_rows, monkeypatch):
    head, x, near, _ = model_like(40)
    usual = divergence(x, near, head, [1.0], workspace=Workspace())
    monkeypatch.setattr(logit_blocks, "BLOCK_ROWS", block_rows)
    blocked = divergence(x, near, head, [1.0])
    for name in COLUMN_NAMES:
        # Few rows are multiplied another way; a margin is a difference of two rounded logits.
        atol = 1e-5 if name.startswith("margin") else 1e-6
        np.testing.assert_allclose(blocked[name], usual[name], rtol=2e-4, atol=atol, err_msg=name)


def test_inputs_are_not_modified():
    head, x, near, _ = model_like(10)
    copies = [tensor.clone() for tensor in (x, near, head.weight)]
    divergence(x, near, head, [1.0])
    for tensor, copy in zip((x, near, head.weight), copies, strict=True):
        assert torch.equal(tensor, copy)


def test_temperatures_are_the_first_axis_also_for_one_row():
    head, x, near, _ = model_like(1)
    measured = divergence(x, near, head, [0.5, 1.0, 2.0])
    assert {values.shape for values in measured.values()} == {(3, 1)}
    for index, temperature in enumerate((0.5, 1.0, 2.0)):
        alone = divergence(x, near, head, [temperature])
        for name in COLUMN_NAMES:
            np.testing.assert_array_equal(measured[name][index], alone[name][0], err_msg=name)


def test_a_large_constant_shift_keeps_probabilities_at_most_one():
    z = 12 * torch.eye(300)[:4] + 0.5
    measured = divergence(z, torch.full_like(z, 9000.0) + 0.25 * z, identity_head(300), [1.0])
    assert (measured["p_dense_top1_pruned"] <= 1.000001).all()
    truth = divergence_reference(z, torch.full_like(z, 9000.0) + 0.25 * z, identity_head(300), 1.0)
    for name in ("p_dense_top1_pruned", "kl_dense_pruned_nats", "js_nats", "total_variation", "one_minus_cos_p"):
        np.testing.assert_allclose(measured[name][0], truth[name].numpy(), rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_no_rows_give_no_rows_in_all_columns(kernels, monkeypatch):
    monkeypatch.setattr(logit_blocks, "kernels_for", lambda _: kernels)
    head, x, near, _ = model_like(3)
    for shift in (near[:0], None):
        measured = divergence(x[:0], shift, head, [1.0])
        assert {name: values.shape for name, values in measured.items()} == dict.fromkeys(COLUMN_NAMES, (1, 0))


@settings(max_examples=examples(60))
@given(DENSE, SHIFT, ALL_SIZES, SEEDS, TEMPERATURES)
def test_the_kernels_in_torch_give_the_columns_of_the_compiled_ones(dense, shift, size, seed, temperature):
    z, dz = logits_and_shift(dense, shift, 4, size, seed)
    compiled = divergence(z, dz, identity_head(size), [temperature, 1.0])
    dense, shift_sums = eager_kernels.dense_sums(z, [temperature, 1.0])
    assert_same_columns(sum_columns(dense, shift_sums(dz)), compiled)


@pytest.mark.parametrize(
    ("device", "package", "capability", "kernels"),
    [
        ("cpu", "triton", 9, "numba"),
        ("cuda", "triton", 7, "triton"),
        ("cuda", "triton", 6, "torch"),
        ("cuda", "another", 9, "torch"),
        ("mps", "triton", 9, "torch"),
    ],
)
def test_a_device_gets_the_kernels_that_run_on_it(device, package, capability, kernels, monkeypatch):
    monkeypatch.setattr(logit_blocks, "find_spec", lambda name: name if name == package else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 5))
    assert logit_blocks.kernels_for(torch.device(device)) == kernels


def test_a_measure_by_torchs_operations_matches_the_compiled_kernels(monkeypatch):
    head, x, near, far = model_like(5)
    compiled = divergences(x, [near, far, None], head, [0.5, 1.0])
    monkeypatch.setattr(logit_blocks, "kernels_for", lambda _: "torch")
    for measured, own in zip(divergences(x, [near, far, None], head, [0.5, 1.0]), compiled, strict=True):
        for name in COLUMN_NAMES:
            atol = 1e-5 if name.startswith(("identity", "margin", "entropy")) else 1e-7
            np.testing.assert_allclose(measured[name], own[name], rtol=1e-3, atol=atol, err_msg=name)


def test_float64_and_float32_rows_agree_where_both_apply(monkeypatch):
    head, x, near, far = model_like(10)
    usual = divergences(x, [near, far], head, [0.5, 1.0])
    monkeypatch.setattr(logit_blocks, "_PRODUCT_NOISE", 1.0)  # every row goes to float64
    for measured, exact in zip(usual, divergences(x, [near, far], head, [0.5, 1.0]), strict=True):
        for name in COLUMN_NAMES:
            atol = 1e-4 if name == "identity_residual_nats" else 1e-6  # the rounding of the logits themselves
            np.testing.assert_allclose(measured[name], exact[name], rtol=5e-4, atol=atol, err_msg=name)


def is_flushing() -> bool:
    return bool(np.float32(1e-30) * np.float32(1e-10) == 0)


def test_flushing_subnormal_weights_changes_no_measure(monkeypatch):
    # Weights, their squares and those of the pruned side cover all of exp(0) to exp(−130), most of it subnormal.
    z = torch.linspace(0, -130, 4096).repeat(4, 1) + torch.randn(4, 4096, generator=torch.Generator().manual_seed(0))
    dz = torch.randn(4, 4096, generator=torch.Generator().manual_seed(1))
    flushed = divergence(z, dz, identity_head(4096), [0.5, 1.0, 2.0])
    monkeypatch.setattr("prunescope.pipelines.metrics.logit_blocks.subnormals_flushed", nullcontext)
    for name, kept in divergence(z, dz, identity_head(4096), [0.5, 1.0, 2.0]).items():
        np.testing.assert_allclose(flushed[name], kept, rtol=1e-6, atol=0, err_msg=name)


@pytest.mark.parametrize("before", [False, True])
def test_a_measure_flushes_subnormals_and_restores_the_thread(before, monkeypatch):
    head, x, near, _ = model_like(3)
    during = []
    for name in ("gaps", "dense_rows", "shift_rows"):
        kernel = getattr(fused_kernels, name)
        monkeypatch.setattr(
            fused_kernels, name, lambda *sums, kernel=kernel: (during.append(is_flushing()), kernel(*sums))[1]
        )
    torch.set_flush_denormal(before)
    try:
        divergence(x, near, head, [1.0])
        after = is_flushing()
        with pytest.raises(NumericalError):
            divergence(x, near * math.nan, head, [1.0])
        assert (during, after, is_flushing()) == ([True] * 3, before, before)
    finally:
        torch.set_flush_denormal(False)


@settings(max_examples=examples(25))
@given(SEEDS, st.sampled_from([1.0, 12.0, 40.0, 90.0]), st.sampled_from([1e-3, 1.0, 9.0, 70.0]))
def test_omitted_and_borderline_tokens_match_the_float64_reference(seed, length, shift):
    # From rows in which every token counts to rows in which few do; sizes beside whole vectors, several temperatures.
    draw = torch.Generator().manual_seed(seed)
    z = on_grid(length * torch.randn(3, 2063, generator=draw))
    dz = on_grid(shift * torch.randn(3, 2063, generator=draw)) + 1 / 128
    temperatures = [0.3, 1.3, 1.0]
    measured = divergence(z, dz, identity_head(2063), temperatures)
    for index, temperature in enumerate(temperatures):
        truth = divergence_reference(z, dz, identity_head(2063, torch.float64), temperature)
        assert_matches({name: values[index : index + 1] for name, values in measured.items()}, truth, temperature)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_with_the_row(bad):
    head, x, near, _ = model_like(5)
    near[3, 7] = bad
    with pytest.raises(NumericalError, match="row 3: the shift"):
        divergence(x, near, head, [1.0])
    with pytest.raises(NumericalError, match="row 3: the state"):
        divergence(near, None, head, [1.0])


def test_a_vector_of_zeros_has_no_angle_and_is_refused_with_the_row():
    head, x, near, _ = model_like(5)
    x[2] = 0
    with pytest.raises(NumericalError, match="row 2: one_minus_cos_h"):
        divergence(x, near, head, [1.0])
    x[2] = -near[2]
    with pytest.raises(NumericalError, match="row 2: one_minus_cos_h"):
        divergence(x, near, head, [1.0])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_an_invalid_temperature_is_refused(temperature):
    head, x, near, _ = model_like(2)
    with pytest.raises(ValueError, match="greedy"):
        divergence(x, near, head, [1.0, temperature])


def test_a_shift_of_another_shape_is_refused():
    head, x, near, _ = model_like(2)
    # A TypeError where the annotations are enforced.
    with pytest.raises((ValueError, TypeError), match=r"shape|parameter"):
        divergence(x, near[:1], head, [1.0])


def test_columns_are_those_of_the_warehouse_in_name_type_and_range():
    head, x, near, far = model_like(20)
    for measured in divergences(x, [near, far], head, [1.0]):
        assert set(measured) == set(COLUMN_NAMES)
        for column in DIVERGENCE:
            values = measured[column.name]
            assert values.dtype == column.type.to_pandas_dtype(), column.name
            assert column.minimum is None or (values >= column.minimum).all(), column.name
            assert column.maximum is None or (values <= column.maximum).all(), column.name


def test_large_logits_keep_the_digits_of_tokens_far_below_the_top() -> None:
    generator = torch.Generator().manual_seed(0)
    head = OutputHead(torch.randn(400, 512, generator=generator))
    # Logits of 150 and top tokens alone at p ≈ 1: the variance is that of tokens 15 to 30 below.
    x = torch.randn(300, 512, generator=generator) * (150 / 512**0.5)
    dx = torch.randn(300, 512, generator=generator) * (3 / 512**0.5)
    found, true = divergence(x, dx, head, [1.0]), divergence_reference(x, dx, head, 1.0)
    gaps = (x.double() @ head.weight.double().T).topk(2).values
    is_far = (gaps[:, 0] - gaps[:, 1] > 15).numpy() & (true["var_p_dz"] >= 1e-8).numpy()
    assert is_far.sum() >= 5
    np.testing.assert_allclose(found["var_p_dz"][0][is_far], true["var_p_dz"].numpy()[is_far], rtol=5e-6)
