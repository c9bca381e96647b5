"""Tests of dynamic sparse no training (DSnoT): smaller mean errors, unchanged counts, and a slow reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.pruning.masks import Mask, keep_n_of_m, keep_share
from prunescope.pipelines.pruning.methods import MatrixContext, change_of
from prunescope.pipelines.pruning.methods.prune_and_grow import Channels, eager, exchange
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import DSnoT, parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.examples import examples
from tests.pipelines.pruning.reconstruction import correlated, inputs_of, random_weight
from tests.tiny_models import SHORT_TEXT


def exchanged(
    dense: Tensor,
    weight: Tensor,
    kept: Mask | None,
    inputs: ActivationMoments,
    facts: dict[str, int] | None = None,
    **fields: float,
) -> WeightDelta | None:
    facts = {} if facts is None else facts
    return change_of(MatrixContext("layers.0.q", weight, dense, kept, inputs, None, facts), DSnoT(name="d", **fields))


def reference(
    dense: Tensor, weight: Tensor, kept: Mask, x: Tensor, block: int, cycles: int, threshold: float, power: float
) -> tuple[Tensor, Tensor]:
    """Run the paper's loop in float64, weight by weight; also stop where an exchange increases the error."""
    mean, variance = x.double().mean(dim=0), x.double().var(dim=0, unbiased=False)
    rms = x.double().square().mean(dim=0).sqrt()
    found, mask = weight.double().clone(), kept.clone()
    for q in range(len(weight)):
        for _ in range(cycles):
            error = sum(float((dense[q, k].double() - found[q, k]) * mean[k]) for k in range(weight.shape[1]))
            if abs(error) <= threshold:
                break
            sign = 1 if error > 0 else -1
            best, pair = -float("inf"), None
            for i in range(weight.shape[1]):
                gain = sign * float(dense[q, i]) * float(mean[i])
                if mask[q, i] or gain <= 0 or gain / float(variance[i]) ** power <= best:
                    continue
                goes = [
                    (abs(float(found[q, j])) * float(rms[j]), j)
                    for j in range(i // block * block, i // block * block + block)
                    if mask[q, j] and sign * float(found[q, j]) * float(mean[j]) < 0
                ]
                if goes:
                    best, pair = gain / float(variance[i]) ** power, (i, min(goes)[1])
            if pair is None:
                break
            i, j = pair
            after = error - float(dense[q, i] * mean[i]) + float(found[q, j] * mean[j])
            if abs(after) >= abs(error):
                break
            found[q, i], found[q, j] = float(dense[q, i]), 0
            mask[q, i], mask[q, j] = True, False
    return found, mask


def shifted(tokens: int, channels: int) -> Tensor:
    """Return inputs whose means are not zero."""
    return correlated(tokens, channels) + torch.randn(channels, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    ("block", "cycles", "threshold"), [(24, 50, 1e-6), (24, 2, 1e-6), (24, 50, 0.5), (4, 50, 1e-6)]
)
def test_exchanges_equal_those_of_a_loop_over_single_weights(
    block: int, cycles: int, threshold: float, power: float
) -> None:
    dense, x = random_weight(12, 24), shifted(60, 24)
    inputs = inputs_of(x)
    kept = keep_share(dense.abs(), 0.5, "output") if block == 24 else keep_n_of_m(dense.abs(), 2, 4)
    weight = dense.masked_fill(~kept, 0)
    facts: dict[str, int] = {}
    change = exchanged(
        dense, weight, kept, inputs, facts, max_cycle=cycles, update_threshold=threshold, pow_of_var=power
    )
    found, mask = reference(dense, weight, kept, x, block, cycles, threshold, power)
    assert torch.equal(change.mask, mask)
    assert torch.equal(change.weight(dense), found.float())
    stored = WeightDelta.masked(kept).then(change, dense)
    assert stored.values is None, "all its weights are dense ones: one bit each"
    assert torch.equal(stored.weight(dense), change.weight(dense))
    assert facts["dsnot_exchanges"] >= int((mask & ~kept).sum()) > 0


@settings(max_examples=examples(60))
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.5, 1.5]), min_size=48, max_size=48),
    block=st.sampled_from([4, 12]),
    cycles=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_the_torch_kernel_equals_the_compiled_one_also_on_ties(
    values: list[float], block: int, cycles: int, dtype: torch.dtype
) -> None:
    dense = torch.tensor(values, dtype=dtype).reshape(4, 12)
    # Halves, so that every sum is exact in whatever order; a dead channel, and one that never varies.
    mean = torch.tensor([0.5, -0.5, 0, 1, -1, 2, 0.5, 0.5, -2, 1, 1, -0.5], dtype=torch.float64)
    variance = torch.tensor([1.0, 1, 0, 2, 0, 1, 4, 1, 1, 2, 1, 1], dtype=torch.float64)
    channels = Channels(mean, mean / variance, mean.square().add(variance).sqrt())
    kept = keep_n_of_m(dense.abs().float(), block // 2, block)
    weight = dense.masked_fill(~kept, 0)
    found, other = (form(dense, weight, kept, channels, block, cycles, 0.0) for form in (exchange, eager))
    assert torch.equal(found[1], other[1])
    assert torch.equal(found[0][found[1]], other[0][other[1]])
    assert found[0].dtype == other[0].dtype == dtype
    assert found[2] == other[2]


def test_regrown_weights_are_dense_and_kept_ones_keep_earlier_changes() -> None:
    dense, x = random_weight(12, 24), shifted(60, 24)
    kept = keep_share(dense.abs(), 0.5, "output")
    weight = (dense * 1.25).masked_fill(~kept, 0)
    change = exchanged(dense, weight, kept, inputs_of(x), update_threshold=1e-6)
    found, mask = reference(dense, weight, kept, x, 24, 50, 1e-6, 1)
    assert torch.equal(change.mask, mask)
    stayed, grown = kept & mask, mask & ~kept
    assert grown.any()
    assert torch.equal(change.weight(dense)[stayed], weight[stayed])
    assert torch.equal(change.weight(dense)[grown], dense[grown])
    assert torch.equal(change.weight(dense).double(), found)


@settings(max_examples=examples(40))
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.5]), min_size=48, max_size=48),
    sparsity=st.floats(0.05, 0.95),
    group=st.sampled_from(["matrix", "output"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_every_row_keeps_its_count_and_its_mean_error_never_grows(
    values: list[float], sparsity: float, group: str, dtype: torch.dtype
) -> None:
    dense = torch.tensor(values, dtype=dtype).reshape(4, 12)
    x = torch.arange(36).reshape(3, 12).float().sin()
    kept = keep_share(dense.abs().float(), sparsity, group)
    weight = dense.masked_fill(~kept, 0)
    change = exchanged(dense, weight, kept, inputs_of(x), update_threshold=0)
    if change is not None:
        assert torch.equal(change.mask.sum(dim=1), kept.sum(dim=1))
        before, after = (
            ((dense - each).double() @ x.double().mean(dim=0)).abs() for each in (weight, change.weight(dense))
        )
        assert bool((after <= before + 1e-12).all())
        assert bool((after < before - 1e-12).any())


@pytest.mark.parametrize(("keep", "block"), [(2, 4), (4, 8), (1, 2)])
def test_groups_stay_n_of_m(keep: int, block: int) -> None:
    dense = random_weight(32, 48)
    kept = keep_n_of_m(dense.abs(), keep, block)
    change = exchanged(dense, dense.masked_fill(~kept, 0), kept, inputs_of(shifted(60, 48)))
    assert not torch.equal(change.mask, kept)
    assert bool((change.mask.reshape(-1, block).sum(dim=1) == keep).all())


def test_nothing_is_exchanged_without_masks_errors_or_candidates() -> None:
    dense = random_weight(4, 8)
    kept = keep_share(dense.abs(), 0.5, "output")
    weight = dense.masked_fill(~kept, 0)
    x = shifted(20, 8)
    assert exchanged(dense, dense, None, inputs_of(x)) is None
    assert exchanged(dense, weight, kept, inputs_of(torch.zeros(5, 8))) is None, "dead channels change no output"
    assert exchanged(dense, weight, kept, inputs_of(x), update_threshold=1e9) is None
    zeros = torch.zeros_like(dense)
    assert exchanged(zeros, zeros, kept, inputs_of(x)) is None
    assert exchanged(dense[:, :1], weight[:, :1], kept[:, :1], inputs_of(x[:, :1])) is None, "one input, no partner"
    everything = torch.ones_like(kept)
    assert exchanged(dense, dense, everything, inputs_of(x)) is None


def test_a_constant_channel_regrows_first_and_a_zero_weight_never() -> None:
    dense = torch.tensor([[1.0, 0.0, 3.0, 1.0]])
    x = torch.tensor([[1.0, 5.0, 2.0, -0.1], [1.0, 5.0, 3.0, -0.5]])
    kept = torch.tensor([[False, False, False, True]])
    change = exchanged(dense, dense.masked_fill(~kept, 0), kept, inputs_of(x))
    assert change.mask.tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("where", ["dense", "weight", "inputs"])
def test_damaged_numbers_are_a_failure_that_names_the_matrix(where: str) -> None:
    numbers = {"dense": random_weight(4, 8), "weight": random_weight(4, 8), "inputs": shifted(20, 8)}
    numbers[where][2, 3] = float("nan")
    kept = torch.ones(4, 8, dtype=torch.bool)
    with pytest.raises(ComputationError, match=r"layers\.0\.q: .*NaN"):
        exchanged(numbers["dense"], numbers["weight"], kept, inputs_of(numbers["inputs"]))


def test_dsnot_needs_an_earlier_mask() -> None:
    for name in ("dsnot", "dsnot+wanda-50", "attn-drop-1+dsnot", "{name: mine, method: dsnot}"):
        with pytest.raises(InputError, match="improves an earlier mask"):
            parse_recipe(name)
    assert parse_recipe("attn-drop-1+wanda-50+dsnot").needs == ("block_influence",)


@pytest.mark.parametrize("before", ["wanda-50", "magnitude-2of4", "sparsegpt-50"])
def test_dsnot_works_after_any_mask_of_a_model(decoder: Decoder, before: str) -> None:
    tokens = calibration_tokens(decoder.tokenizer, CalibrationSpec(source=SHORT_TEXT, sequences=4, length=32))
    first = prune(decoder, parse_recipe(before), None, None, tokens)
    variant = prune(decoder, parse_recipe(f"{before}+dsnot"), None, None, tokens)
    assert variant.facts["dsnot_exchanges"] > 0
    moved = 0
    for name, mask in variant.masks.items():
        assert torch.equal(mask.sum(dim=1), first.masks[name].sum(dim=1))
        if before == "magnitude-2of4":
            assert bool((mask.reshape(-1, 4).sum(dim=1) == 2).all())
        grown = mask & ~first.masks[name]
        moved += int(grown.sum())
        dense = decoder.matrices[name].weight
        assert torch.equal(variant.changes[name].weight(dense)[grown], dense[grown])
    assert moved > 0
