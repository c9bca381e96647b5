"""Tests of sampled masks against whole masks: equal bits at equal positions, and overlaps within their error."""

import numpy as np
import polars as pl
import pytest
import torch

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.masks import keep_share
from prunescope.pipelines.pruning.sampled_masks import MAX_SAMPLED, mask_samples, sampled_positions
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.weight_delta import QuantizedWeights, WeightDelta
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.tables import TABLES
from prunescope.warehouse.tables import mask_samples as table
from tests.tiny_models import save_tiny


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Load a model whose MLP matrices have more weights than are sampled."""
    return load_decoder(save_tiny(tmp_path_factory.mktemp("wide"), hidden_size=64, intermediate_size=288))


def random_masks(decoder: Decoder, seed: int, sparsity: float = 0.5) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        name: keep_share(torch.rand(matrix.weight.shape, generator=chance), sparsity, "matrix")
        for name, matrix in decoder.matrices.items()
    }


def masked(masks: dict[str, torch.Tensor]) -> Variant:
    return Variant({name: WeightDelta.masked(mask) for name, mask in masks.items()})


def unpacked(row: dict[str, object]) -> np.ndarray:
    return np.unpackbits(np.frombuffer(row["kept_bits"], np.uint8), count=row["sampled"]).astype(bool)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_small_matrix_is_sampled_whole(decoder: Decoder) -> None:
    masks = random_masks(decoder, 1)
    rows = mask_samples(decoder, "tiny", "mine", masked(masks))
    assert rows["module"].to_list() == list(decoder.matrices)
    for row in rows.iter_rows(named=True):
        mask = masks[row["module"]]
        assert row["weights"] == row["sampled"] == mask.numel() <= MAX_SAMPLED
        assert np.array_equal(unpacked(row), mask.numpy().reshape(-1))
    where = {(sublayer.layer, sublayer.kind): set(sublayer.matrices) for sublayer in decoder.sublayers}
    found = rows.group_by("layer", "sublayer").agg("module").iter_rows()
    assert {(layer, kind): set(names) for layer, kind, names in found} == where


def test_the_rows_pass_their_tables_checks(wide: Decoder) -> None:
    from prunescope.warehouse.quality.checks import violations

    rows = mask_samples(wide, "tiny", "mine", masked(random_masks(wide, 2)))
    assert violations(TABLES["mask_samples"], to_arrow(TABLES["mask_samples"], rows)) == []
    [sampled] = [column for column in TABLES["mask_samples"].columns if column.name == "sampled"]
    assert sampled.maximum == table.MAX_SAMPLED == MAX_SAMPLED
    assert rows["sampled"].max() == MAX_SAMPLED < rows["weights"].max()


def test_a_large_matrix_is_sampled_at_its_positions(wide: Decoder) -> None:
    masks = random_masks(wide, 3)
    rows = mask_samples(wide, "tiny", "mine", masked(masks)).filter(pl.col("weights") > MAX_SAMPLED)
    assert rows.height >= 2
    for row in rows.iter_rows(named=True):
        mask = masks[row["module"]]
        positions = sampled_positions(row["module"], *mask.shape)
        assert len(positions) == MAX_SAMPLED
        stretch = mask.numel() / MAX_SAMPLED
        assert (np.abs(positions - (np.arange(MAX_SAMPLED) + 0.5) * stretch) <= stretch / 2 + 1).all()
        assert 0 <= positions[0] <= positions[-1] < mask.numel()
        assert np.array_equal(unpacked(row), mask.numpy().reshape(-1)[positions])


def test_positions_depend_on_name_and_shape_alone() -> None:
    positions = sampled_positions("layers.0.mlp.up_proj", 300, 100)
    assert np.array_equal(positions, sampled_positions("layers.0.mlp.up_proj", 300, 100))
    for other in (
        sampled_positions("layers.1.mlp.up_proj", 300, 100),
        sampled_positions("layers.0.mlp.up_proj", 100, 300),
    ):
        assert not np.array_equal(positions, other)
    # Literal values, so that this test fails if another numpy samples other positions.
    assert positions[:6].tolist() == [1, 2, 4, 6, 7, 10]
    assert sampled_positions("m", 1, MAX_SAMPLED + 1).max() <= MAX_SAMPLED
    assert np.array_equal(sampled_positions("m", 1, MAX_SAMPLED), np.arange(MAX_SAMPLED))


@pytest.mark.parametrize("weights", [MAX_SAMPLED + 3, 3 * MAX_SAMPLED // 2, 5 * MAX_SAMPLED + 1])
def test_positions_are_uniform(weights: int) -> None:
    draws = 200
    counts = np.zeros(weights)
    for index in range(draws):
        np.add.at(counts, sampled_positions(f"layers.{index}", 1, weights), 1)
    expected = draws * MAX_SAMPLED / weights
    # A place is drawn at most as unevenly as in independent draws; the largest of many has five standard errors.
    assert np.abs(counts - expected).max() < 5.5 * np.sqrt(expected)
    for part in (slice(0, None, 2), slice(0, None, 4), slice(0, weights // 3)):
        share = counts[part].sum() / counts.sum()
        fair = len(counts[part]) / weights
        assert abs(share - fair) < 5 * np.sqrt(fair / (draws * MAX_SAMPLED))


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.9])
def test_sampled_overlaps_equal_whole_ones_within_their_standard_error(shared: float) -> None:
    chance = np.random.default_rng(7)
    one = chance.random(1_000_000) < 0.5
    other = np.where(chance.random(one.size) < shared, one, chance.random(one.size) < 0.5)
    positions = sampled_positions("m", 1000, 1000)
    truth, estimate = jaccard(one, other), jaccard(one[positions], other[positions])
    error = np.sqrt(truth * (1 - truth) / (one | other)[positions].sum())
    assert abs(estimate - truth) < 4 * error
    assert error < 0.006


def test_dropped_sublayers_count_as_removed_and_unchanged_matrices_as_kept(decoder: Decoder) -> None:
    masks = random_masks(decoder, 4)
    kept = {name: mask for name, mask in masks.items() if ".0." in name}
    variant = Variant({name: WeightDelta.masked(mask) for name, mask in kept.items()}, dropped=("attn.0", "mlp.1"))
    for row in mask_samples(decoder, "tiny", "mine", variant).iter_rows(named=True):
        label = f"{row['sublayer']}.{row['layer']}"
        if label in variant.dropped:
            assert not unpacked(row).any()
        elif row["module"] in kept:
            assert np.array_equal(unpacked(row), kept[row["module"]].numpy().reshape(-1))
        else:
            assert unpacked(row).all()


def test_updated_weights_and_zero_codes_count_as_kept(decoder: Decoder) -> None:
    name, matrix = next(iter(decoder.matrices.items()))
    outputs, inputs = matrix.weight.shape
    zero = QuantizedWeights.of(torch.zeros(outputs, inputs), 4, inputs, torch.ones(outputs, 1), torch.zeros(outputs, 1))
    mask = random_masks(decoder, 5)[name]
    wanted = {
        "values": (WeightDelta.valued(torch.zeros(outputs, inputs)), np.ones(outputs * inputs, bool)),
        "codes": (WeightDelta.quantized((outputs, inputs), zero), np.ones(outputs * inputs, bool)),
        "masked codes": (WeightDelta.quantized((outputs, inputs), zero, mask), mask.numpy().reshape(-1)),
        "masked values": (WeightDelta.valued(matrix.weight, mask), mask.numpy().reshape(-1)),
    }
    for change, kept in wanted.values():
        row = mask_samples(decoder, "tiny", "mine", Variant({name: change})).row(0, named=True)
        assert row["module"] == name
        assert np.array_equal(unpacked(row), kept)
