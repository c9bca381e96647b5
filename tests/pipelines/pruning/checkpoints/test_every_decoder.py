"""Tests that plain transformers opens the export of every kind of decoder, with the variant's logits."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.model_card import About
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.pruning.test_structure import logits

# Their layers' kinds follow from a period, which no removal of one layer keeps.
KEEPS_LAYERS = {"JambaForCausalLM", "RecurrentGemmaForCausalLM"}


def about(recipe: str) -> About:
    return About("tiny", "./tiny", "w" * 64, recipe, "mine", "{}")


# test_zero_weights.py loads exports of dropped sublayers of every decoder.
@pytest.mark.third(2)
@pytest.mark.parametrize(
    "recipe", ["magnitude-50", pytest.param("attn-drop-1", marks=pytest.mark.exhaustive), "block-drop-1"]
)
def test_plain_transformers_gives_the_variants_logits(each_decoder: Decoder, recipe: str, tmp_path: Path) -> None:
    dropped = {"attn-drop-1": ("attn.1",), "block-drop-1": ("attn.1", "mlp.1")}
    variant = prune(each_decoder, parse_recipe(recipe)) if recipe not in dropped else Variant(dropped=dropped[recipe])
    done = export(each_decoder, variant, tmp_path / "out", about(recipe))
    if recipe == "block-drop-1":
        assert ("are removed" in done.notes[0]) == (type(each_decoder.model).__name__ not in KEEPS_LAYERS)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with apply_variant(each_decoder, variant):
        truth = logits(each_decoder.model)
    assert (logits(plain) - truth).norm() <= 1e-5 * truth.norm()
    assert not torch.equal(logits(each_decoder.model), truth)
