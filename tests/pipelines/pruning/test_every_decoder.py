"""Tests of every recipe that changes matrices on every supported kind of decoder, experts included."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune_all
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant, load_variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.tiny_models import ARCHITECTURES, EVERY_DECODER, SHORT_TEXT

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=2, length=48)
# FAMILIES has one method that scores, one that solves and one that quantizes; they run on every decoder. All methods
# run on WHOLE, whose forms differ in relevant ways. Experts that no token reaches stay dense.
FAMILIES = {"magnitude-2of4", "wanda", "sparsegpt", "gptq"}
WHOLE = {*ARCHITECTURES, "mixtral", "gpt_oss", "falcon_h1"}
EXPERTS = "unreached: dense"
RECIPES = [
    parse_recipe(text)
    for text in (
        "magnitude-2of4",
        f"{{name: wanda, method: wanda, sparsity: 0.5, {EXPERTS}}}",
        f"{{name: ria, method: ria, keep: 2, block: 4, {EXPERTS}}}",
        f"{{name: sparsegpt, method: sparsegpt, sparsity: 0.5, {EXPERTS}}}",
        f"{{name: admm, method: admm, sparsity: 0.5, iterations: 2, mask_iterations: 1, {EXPERTS}}}",
        "rtn-4bit-g32",
        f"{{name: gptq, method: gptq, bits: 4, {EXPERTS}}}",
        f"{{name: awq, method: awq, bits: 4, steps: 2, {EXPERTS}}}",
        f"{{name: dsnot, method: composed, parts: [{{name: m, method: magnitude, sparsity: 0.5}}, "
        f"{{name: d, method: dsnot, max_cycle: 3, {EXPERTS}}}]}}",
    )
]


# checkpoints/test_export.py loads a file of every structure.
@pytest.mark.third(0)
@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(*each.values, id=each.id, marks=() if each.id in WHOLE else pytest.mark.exhaustive)
        for each in EVERY_DECODER
    ],
)
def test_every_method_changes_its_weights_and_its_file_restores_the_model(
    architecture: str, tmp_path: Path, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    stats = calibrate(decoder, SPEC, "tiny").activation_stats
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    probe = torch.arange(3, 11)[None]
    recipes = [recipe for recipe in RECIPES if architecture in WHOLE or recipe.name in FAMILIES]
    found = prune_all(decoder, recipes, Statistics(activation_stats=stats, tokens=tokens))
    for recipe in recipes:
        variant = found[recipe.name]
        assert isinstance(variant, Variant), (recipe.name, variant)
        row = variant_row(decoder, "tiny", recipe, variant, None, 1, 1.0).row(0, named=True)
        reached = sum(m.weight.numel() for name, m in decoder.matrices.items() if name in variant.changes)
        if recipe.method in {"rtn", "gptq", "awq"}:
            assert row["weights_masked"] == 0
            assert row["weights_updated"] > reached / 2
        else:
            assert abs(row["weights_masked"] - reached / 2) <= 0.01 * reached, recipe.name
            assert (row["weights_updated"] > 0) == (recipe.method in {"sparsegpt", "admm"}), recipe.name
        variant.save(tmp_path / "v.safetensors", recipe, "weights")
        with apply_variant(decoder, variant):
            states = decoder.hidden(probe)
        assert states.isfinite().all(), recipe.name
        with apply_variant(decoder, load_variant(tmp_path / "v.safetensors", "weights")):
            assert torch.equal(decoder.hidden(probe), states), recipe.name
