"""Tests of rounding to the nearest and of activation-aware scales against slow searches in float64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.pruning.methods import quantize
from prunescope.pipelines.pruning.methods.quantization_grid import grids, quantized_groups
from prunescope.pipelines.pruning.methods.quantize import CLIPS
from prunescope.pipelines.pruning.variant import load_variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import AWQ, parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.pipelines.pruning.reconstruction import changed, correlated, error, inputs_of, random_weight
from tests.tiny_models import SHORT_TEXT


def nearest(row: Tensor, bits: int, symmetric: bool, share: float = 1.0) -> Tensor:
    """Return for every weight of one group the nearest of all points of its grid, listed one by one in float64."""
    low, high = min(0.0, float(row.min())) * share, max(0.0, float(row.max())) * share
    if symmetric:
        high = max(-low, high)
        low = -high
    step = (high - low) / (2**bits - 1) or 1.0
    zero = 2 ** (bits - 1) if symmetric else round(-low / step)
    points = torch.tensor([(code - zero) * step for code in range(2**bits)], dtype=torch.float64)
    return points[(row[:, None] - points).abs().argmin(dim=1)]


def rounded(weight: Tensor, bits: int, group: int | None, symmetric: bool, share: float = 1.0) -> Tensor:
    return torch.stack(
        [
            torch.cat([nearest(part, bits, symmetric, share) for part in row.split(group or len(row))])
            for row in weight.double()
        ]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(4, None), (3, 8), (8, 5), (2, 100)])
def test_rtn_takes_the_nearest_point_of_every_groups_grid(
    bits: int, group: int | None, symmetric: bool, dtype: torch.dtype
) -> None:
    weight = random_weight(6, 24).to(dtype)
    name = f"{{name: r, method: rtn, bits: {bits}, group: {group or 'null'}, symmetric: {str(symmetric).lower()}}}"
    found = changed(weight, correlated(2, 24), name)
    expected = rounded(weight, bits, group, symmetric)
    # Distances, not values: the ends of a symmetric grid lie half a step inside the largest weights.
    distances = [(each.double() - weight.double()).abs() for each in (found.weight(weight), expected)]
    torch.testing.assert_close(*distances, rtol=0, atol=1e-6 if dtype == torch.float32 else 0.01)
    assert found.codes.channels is None
    assert found.codes.packed.numel() == -(-6 * 24 * bits // 8)


def best_power(weight: Tensor, x: Tensor, bits: int, group: int | None, steps: int) -> tuple[Tensor, float]:
    """Return the scaled and rounded weight with the least error of W x, summed over the tokens one step at a time."""
    sizes = x.double().square().mean(dim=0).sqrt()
    found = []
    for step in range(steps):
        scale = (sizes / sizes.max()) ** (step / steps)
        tried = rounded(weight.double() * scale, bits, group, False) / scale
        found.append((float(((tried - weight.double()) @ x.double().T).square().sum()), step, tried))
    _, step, tried = min(found, key=lambda each: each[:2])
    return tried, step / steps


@pytest.mark.parametrize(("bits", "group"), [(4, None), (3, 8)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_awq_takes_the_exponent_with_the_least_error_of_the_output(bits: int, group: int | None, seed: int) -> None:
    weight, x = random_weight(10, 24, seed + 5), correlated(80, 24, seed)
    expected, power = best_power(weight, x, bits, group, 20)
    name = f"{{name: a, method: awq, bits: {bits}, group: {group or 'null'}, clip: false}}"
    change = changed(weight, x, name)
    sizes = x.double().square().mean(dim=0).sqrt()
    torch.testing.assert_close(change.codes.channels.double(), (sizes / sizes.max()) ** power, rtol=1e-5, atol=0)
    assert power > 0
    torch.testing.assert_close(change.weight(weight).double(), expected, rtol=1e-4, atol=1e-4)
    assert error(weight, change, x) < error(
        weight, changed(weight, x, f"rtn-{bits}bit" + (f"-g{group}" if group else "")), x
    )


def test_clipping_narrows_the_grid_only_where_every_output_improves() -> None:
    weight, x = random_weight(40, 16), torch.randn(200, 16, generator=torch.Generator().manual_seed(3))
    weight[:20, 3] *= 3  # one large weight costs all the others their precision
    plain = changed(weight, x, "{name: a, method: awq, bits: 3, steps: 1, clip: false}").weight(weight).double()
    found = changed(weight, x, "{name: a, method: awq, bits: 3, steps: 1}").weight(weight).double()
    errors = {}
    for share in CLIPS:
        tried = rounded(weight, 3, None, False, share)
        errors[share] = ((tried - weight.double()) @ x.double().T).square().sum(dim=1)
    least = torch.stack(list(errors.values())).amin(dim=0)
    own = ((found - weight.double()) @ x.double().T).square().sum(dim=1)
    torch.testing.assert_close(own, least, rtol=1e-4, atol=1e-6)
    without = ((plain - weight.double()) @ x.double().T).square().sum(dim=1)
    assert bool((own <= without * (1 + 1e-6)).all())
    assert bool((own < without * 0.99).any())


@pytest.mark.parametrize("group", [4, 8])
def test_no_output_is_worse_for_clipping_its_groups(group: int) -> None:
    weight, x = random_weight(30, 24), correlated(60, 24)
    gram = x.double().T @ x.double()
    both = []
    for clip in ("true", "false"):
        name = f"{{name: a, method: awq, bits: 3, group: {group}, clip: {clip}}}"
        shift = changed(weight, x, name).weight(weight).double() - weight.double()
        both.append(((shift @ gram) * shift).sum(dim=1))
    assert bool((both[0] <= both[1] * (1 + 1e-4)).all())
    assert float(both[0].sum()) < float(both[1].sum())


def exhaustive(weight: Tensor, inputs: ActivationMoments, recipe: AWQ) -> dict[str, Tensor]:
    """Return what AWQ stores, with every exponent and every range compared by products of whole matrices."""
    weight, gram, width = weight.float(), inputs.gram, weight.shape[1]
    sizes = inputs.second_moment.sqrt().float()
    sizes = sizes.masked_fill(sizes == 0, float(sizes[sizes > 0].min()))
    sizes = (sizes / sizes.max()).clamp(min=1e-4)
    group = min(recipe.group or width, width)
    groups = torch.arange(width) // group

    def shift(channels: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        codes = quantized_groups(weight * channels, scales, zeros, recipe.bits, group)
        return (codes.float() - zeros[:, groups]) * scales[:, groups] / channels - weight

    def errors(moved: Tensor, gram: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return ((moved @ gram) * moved).sum(dim=1, dtype=dtype)

    def spanned(channels: Tensor, clip: float = 1.0) -> tuple[Tensor, Tensor]:
        return grids(weight * channels * clip, recipe.bits, group, recipe.symmetric)

    tried = [sizes ** (step / recipe.steps) for step in range(recipe.steps)]
    totals = [float(errors(shift(each, *spanned(each)), gram, torch.float64).sum()) for each in tried]
    channels = tried[totals.index(min(totals))]
    plain = torch.stack(spanned(channels))
    candidates = torch.stack([torch.stack(spanned(channels, clip)) for clip in CLIPS])
    shares = [
        [
            errors(part, gram[groups == index][:, groups == index])
            for index, part in enumerate(shift(channels, *each).split(group, dim=1))
        ]
        for each in candidates
    ]
    best = torch.stack([torch.stack(each, dim=1) for each in shares]).min(dim=0).indices
    narrow = candidates.gather(0, best.expand(1, 2, *best.shape))[0]
    before, after = (errors(shift(channels, *each), gram, torch.float64) for each in (plain, narrow))
    scales, zeros = torch.where((after < before)[:, None], narrow, plain)
    return {"channels": channels, "scales": scales, "zeros": zeros}


def assert_equal_to_exhaustive(weight: Tensor, x: Tensor, name: str) -> None:
    recipe, inputs = parse_recipe(name), inputs_of(x)
    codes = changed(weight, inputs, name).codes
    for field, expected in exhaustive(weight, inputs, recipe).items():
        assert torch.equal(getattr(codes, field), expected), field


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small matrices have several blocks and panels, the last of which are smaller."""
    monkeypatch.setattr(quantize, "_ROWS", max(1, 8 // max(2, torch.get_num_threads())))
    monkeypatch.setattr(quantize, "_PANEL", 5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(4, None), (3, 7), (8, 5), (2, 100)])
def test_awq_equals_an_exhaustive_search_bit_for_bit(
    bits: int, group: int | None, symmetric: bool, dtype: torch.dtype
) -> None:
    weight, x = random_weight(40, 24), correlated(80, 24)
    weight[3], weight[4], weight[5], weight[:, 7], weight[6, 2] = 0, 0.7, -0.7, 0, 50
    weight[8], weight[9] = weight[8] * 1e-30, weight[9] * 1e12
    x[:, 4:6] = 0
    name = f"{{name: a, method: awq, bits: {bits}, group: {group or 'null'}, symmetric: {str(symmetric).lower()}}}"
    assert_equal_to_exhaustive(weight.to(dtype), x, name)
    assert_equal_to_exhaustive(weight[:9].to(dtype), x, name)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("spread", [1e-6, 1.0])
def test_near_ties_are_decided_by_the_full_product(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random_weight(2000, 16), correlated(80, 16)
    x = x / x.square().mean(dim=0).sqrt() * (1 + spread * torch.rand(16, generator=torch.Generator().manual_seed(1)))
    generator = torch.Generator().manual_seed(2)
    half_errors = quantize._half_errors

    def inexact(shift: Tensor, gram: Tensor) -> Tensor:
        return half_errors(shift, gram) * (1 + 0.04 * (torch.rand((), generator=generator) - 0.5))

    monkeypatch.setattr(quantize, "_half_errors", inexact)
    monkeypatch.setattr(quantize, "_ROWS", 200)
    monkeypatch.setattr(quantize, "_MARGIN", 0.1)
    assert_equal_to_exhaustive(weight, x, "awq-3bit")


@pytest.mark.usefixtures("small_blocks")
def test_half_errors_are_half_of_the_errors_and_few_exponents_need_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random_weight(70, 24), correlated(80, 24)
    half_errors, rows = quantize._half_errors, []

    def counted(shift: Tensor, gram: Tensor) -> Tensor:
        found = half_errors(shift, gram)
        expected = (shift.double() @ x.double().T).square().sum(dim=1)
        torch.testing.assert_close(2 * found, expected, rtol=1e-4, atol=0)
        rows.append(len(shift))
        return found

    monkeypatch.setattr(quantize, "_half_errors", counted)
    changed(weight, x, "{name: a, method: awq, bits: 4, clip: false}")
    assert 70 < sum(rows) < 0.8 * 20 * 70


@pytest.mark.parametrize("damaged", [float("nan"), float("inf")])
def test_awq_refuses_damaged_weights_in_any_block(damaged: float, small_blocks: None) -> None:
    weight = random_weight(40, 8)
    weight[39, 7] = damaged
    with pytest.raises(ComputationError, match="NaN or infinite"):
        changed(weight, correlated(30, 8), "awq-4bit")


@pytest.mark.parametrize("name", ["rtn-4bit", "rtn-3bit-g64", "awq-4bit", "awq-3bit-g4"])
def test_zeros_dead_channels_single_rows_and_columns_stay_finite(name: str) -> None:
    x = correlated(30, 8)
    x[:, 2:4] = 0
    weight = random_weight(5, 8)
    weight[1], weight[:, 5] = 0, 0
    for w, seen in (
        (weight, x),
        (weight, torch.zeros(4, 8)),
        (torch.zeros(3, 8), x),
        (weight[:1], x),
        (weight[:, :1], x[:, :1]),
        (weight * 1e-30, x),
        (weight * 1e15, x),
        (torch.full((2, 8), 0.7), x),
    ):
        found = changed(w, seen, name).weight(w)
        assert torch.isfinite(found).all()
        assert bool((found[w == 0] == 0).all())
        assert float((found - w).abs().max()) <= float(w.abs().max()) / 2


def test_a_dead_channel_gets_the_smallest_live_scale_and_scales_have_a_minimum() -> None:
    x = torch.tensor([[1.0, 0.0, 0.5, 1e-9], [-1.0, 0.0, 0.5, 1e-9]])
    weight = random_weight(3, 4)
    found = changed(weight[:, :3], x[:, :3], "{name: a, method: awq, bits: 3, clip: false}").codes
    assert found.channels[0] == 1
    assert found.channels[1] == found.channels[2]
    quiet = changed(weight, x, "{name: a, method: awq, bits: 3, clip: false}").codes
    assert float(quiet.channels.min()) >= 1e-4


def test_without_activations_awq_is_rounding_to_the_nearest() -> None:
    weight = random_weight(5, 8)
    assert torch.equal(
        changed(weight, torch.zeros(4, 8), "{name: a, method: awq, bits: 4, clip: false}").weight(weight),
        changed(weight, torch.zeros(4, 8), "rtn-4bit").weight(weight),
    )


def test_of_equal_errors_awq_takes_the_least_exponent() -> None:
    found = changed(torch.zeros(3, 8), correlated(30, 8), "awq-4bit").codes
    assert found.channels.tolist() == [1.0] * 8


@pytest.mark.parametrize("name", ["rtn-4bit", "awq-4bit"])
def test_masked_weights_stay_zero(name: str) -> None:
    weight, x = random_weight(6, 12), correlated(40, 12)
    kept = weight.abs() > 0.5
    change = changed(weight.masked_fill(~kept, 0), x, name, mask=kept)
    assert torch.equal(change.mask, kept)
    assert bool((change.weight(weight)[~kept] == 0).all())


@pytest.mark.third(0)
@pytest.mark.parametrize("name", ["rtn-4bit-g16", "awq-4bit", "wanda-50+rtn-4bit", "wanda-2of4+awq-4bit-g16"])
def test_a_quantized_model_is_stored_in_few_bits_and_loads_bit_for_bit(
    decoder: Decoder, tmp_path: Path, name: str
) -> None:
    tokens = calibration_tokens(decoder.tokenizer, CalibrationSpec(source=SHORT_TEXT, sequences=4, length=32))
    variant = prune(decoder, parse_recipe(name), None, None, tokens)
    for key, change in variant.changes.items():
        zeros = float((change.weight(decoder.matrices[key].weight) == 0).float().mean())
        assert (zeros >= 0.5) == ("+" in name)
    variant.save(tmp_path / "v.safetensors", parse_recipe(name), "weights")
    dense = sum(matrix.stored.numel() * 4 for matrix in decoder.matrices.values())
    assert (tmp_path / "v.safetensors").stat().st_size < dense / 2
    probe = torch.arange(3, 20)[None]
    with apply_variant(decoder, variant):
        first = decoder.hidden(probe)
    with apply_variant(decoder, load_variant(tmp_path / "v.safetensors", "weights")):
        assert torch.equal(decoder.hidden(probe), first)
