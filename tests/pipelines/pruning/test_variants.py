"""Tests that a variant follows its recipe, is stored in one bit per weight, and loads bit for bit."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import (
    CalibrationResult,
    calibrate,
    calibration_tokens,
    tokens_hash,
)
from prunescope.pipelines.pruning.variant import Variant, load_variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.tiny_models import SHORT_TEXT

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=6, length=32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_mask_removes_any_number_and_keeps_the_others_bit_for_bit(dtype: torch.dtype) -> None:
    weight = torch.tensor([[-0.0, torch.nan, torch.inf, 1.5], [torch.nan, 1e-7, -2.0, -0.0]], dtype=dtype)
    mask = torch.tensor([[True, False, False, True], [False, True, False, True]])
    found = WeightDelta.masked(mask).weight(weight.T.contiguous().T)
    assert torch.equal(found, torch.where(mask, weight, torch.zeros((), dtype=dtype)))
    assert found.signbit().tolist() == [[True, False, False, False], [False, False, False, True]]


@pytest.fixture(scope="module")
def calibrated(decoder: Decoder) -> CalibrationResult:
    return calibrate(decoder, SPEC, "tiny")


def pruned(decoder: Decoder, calibrated: CalibrationResult, name: str) -> Variant:
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    return prune(decoder, parse_recipe(name), calibrated.activation_stats, calibrated.block_influence, tokens)


@pytest.mark.parametrize("name", ["magnitude-50", "wanda-50", "wanda-2of4", "magnitude-4of8"])
def test_exactly_half_of_the_prunable_weights_are_masked(
    decoder: Decoder, calibrated: CalibrationResult, name: str
) -> None:
    recipe = parse_recipe(name)
    variant = pruned(decoder, calibrated, name)
    digest = tokens_hash(calibration_tokens(decoder.tokenizer, SPEC))
    row = variant_row(decoder, "tiny", recipe, variant, digest, 1, 1.0).row(0, named=True)
    assert row["weights_masked"] * 2 == row["weights_prunable"]
    assert row["sparsity"] == 0.5
    # Half of 16 bits less one bit of the mask.
    assert row["bytes_removed"] * 16 == row["weights_prunable"] * (16 - 2)
    with apply_variant(decoder, variant):
        zeros = sum(int((m.weight == 0).sum()) for m in decoder.matrices.values())
    assert zeros >= row["weights_masked"]


def test_drops_follow_the_block_influence_and_count_their_parameters(
    decoder: Decoder, calibrated: CalibrationResult
) -> None:
    influence = calibrated.block_influence
    least = influence.filter(pl.col("unit") == "block").sort("influence").row(0, named=True)
    assert least["drop_order"] == 1
    variant = pruned(decoder, calibrated, "block-drop-1")
    assert variant.dropped == (f"attn.{least['layer']}", f"mlp.{least['layer']}")
    row = variant_row(decoder, "tiny", parse_recipe("block-drop-1"), variant, None, 1, 1.0).row(0, named=True)
    layer = decoder.layers[least["layer"]]
    matrices = [matrix for s in (layer.attn, layer.mlp) for matrix in s.matrices.values()]
    assert row["bytes_removed"] == 2 * sum(matrix.size for matrix in matrices)
    assert row["parameters_removed"] == sum(
        p.numel() for s in (layer.attn, layer.mlp) for p in s.mixers[0].parameters()
    )


@pytest.mark.parametrize("name", ["dense", "magnitude-37.5", "wanda-2of4", "attn-drop-2", "block-drop-1"])
def test_a_variant_file_rebuilds_the_variant_bit_for_bit(
    decoder: Decoder, calibrated: CalibrationResult, name: str, tmp_path: Path
) -> None:
    variant = pruned(decoder, calibrated, name)
    variant.save(tmp_path / "v.safetensors", parse_recipe(name), "weights")
    again = load_variant(tmp_path / "v.safetensors", "weights")
    assert again.dropped == variant.dropped
    assert again.masks.keys() == variant.masks.keys()
    assert all(torch.equal(again.masks[key], variant.masks[key]) for key in variant.masks)
    tokens = torch.arange(20)[None]
    with apply_variant(decoder, variant):
        first = decoder.hidden(tokens)
    with apply_variant(decoder, again):
        assert torch.equal(decoder.hidden(tokens), first)


def test_a_variant_file_is_refused_when_damaged_or_of_other_weights(
    decoder: Decoder, calibrated: CalibrationResult, tmp_path: Path
) -> None:
    file = tmp_path / "v.safetensors"
    pruned(decoder, calibrated, "wanda-2of4").save(file, parse_recipe("wanda-2of4"), "weights")
    with pytest.raises(InputError, match="other weights"):
        load_variant(file, "others")
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(content)
    with pytest.raises(InputError, match="its changes do not match their hash"):
        load_variant(file, "weights")
    file.write_bytes(content[:50])
    with pytest.raises(InputError, match="not a readable variant file"):
        load_variant(file, "weights")
    with pytest.raises(InputError, match="not a readable variant file"):
        load_variant(tmp_path / "none", "weights")


@pytest.mark.parametrize("values", [1, 3])
def test_a_change_whose_values_are_not_as_many_as_its_mask_keeps_is_refused(values: int) -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    change = WeightDelta.valued(torch.ones(2, 3), mask)
    assert WeightDelta.restored(change.tensors, change.numbers).weight(torch.zeros(2, 3)).sum() == 2
    with pytest.raises(ValueError, match="a mask and its values have different numbers of weights"):
        WeightDelta.restored(change.tensors | {"values": torch.ones(values)}, change.numbers)


def test_a_recipe_without_effect_is_an_error(tiny_folder: Path, calibrated: CalibrationResult) -> None:
    silent = load_decoder(tiny_folder)
    with torch.no_grad():
        for layer in silent.layers:
            layer.attn.mixers[0].o_proj.weight.zero_()
    with pytest.raises(ComputationError, match="attn-drop-1 leaves the forward pass unchanged"):
        prune(silent, parse_recipe("attn-drop-1"), None, calibrated.block_influence)


def test_a_recipe_that_reads_inputs_is_refused_without_tokens(decoder: Decoder) -> None:
    with pytest.raises(InputError, match="needs calibration tokens"):
        prune(decoder, parse_recipe("wanda-50"))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral", "bloom"])
def test_weights_materialized_by_layer_give_equal_numbers_and_are_released(
    architecture: str, tiny_decoder: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = tiny_decoder(architecture)
    pruned = prune(decoder, parse_recipe("magnitude-50"))
    variant = Variant(pruned.changes, dropped=("attn.1",))
    tokens = torch.arange(3, 20)[None]
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in decoder.model.named_parameters()}
    dense = decoder.hidden(tokens)
    with apply_variant(decoder, variant):
        held = decoder.hidden(tokens)
    monkeypatch.setattr("prunescope.pipelines.pruning.variant_patching.MAX_CHANGED_BYTES", 0)
    with apply_variant(decoder, variant):
        assert all(p.data_ptr() == before[name][0] for name, p in decoder.model.named_parameters()), "made too early"
        assert torch.equal(decoder.hidden(tokens), held)
        broken = decoder.layers[1].module.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decoder.hidden(tokens)
        broken.remove()
    for name, parameter in decoder.model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert torch.equal(decoder.hidden(tokens), dense)
    assert not torch.equal(held, dense)


def test_an_effect_is_known_without_reading_the_changes() -> None:
    class Unread(dict[str, WeightDelta]):
        def __getitem__(self, name: str) -> WeightDelta:
            raise AssertionError(f"{name} was read")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("all were read")

        __hash__ = None

    assert not Variant(Unread({"w": WeightDelta((64, 64))})).is_dense
    assert Variant(Unread()).is_dense
    assert Variant(facts={"weights_changed": 0}).is_dense
    for other in (Variant(dropped=("attn.1",)), Variant(noise="batch"), Variant(parameters={"a.bias": torch.ones(1)})):
        assert not other.is_dense
