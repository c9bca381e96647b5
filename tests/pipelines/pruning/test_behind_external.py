"""Tests that recipes after an external checkpoint give the same weights as on that checkpoint itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import parse_recipe, steps
from prunescope.pipelines.studies import CalibrationSpec
from tests.pipelines.pruning.test_external_checkpoints import changed
from tests.tiny_models import SHORT_TEXT, save_tiny

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=5, length=24)


def retouched(source: Path, folder: Path, is_touched: Callable[[str, nn.Parameter], bool], by: float) -> Path:
    """Return a copy of a model with noise on some parameters, except those that both sides are read through."""

    def touch(model: nn.Module) -> None:
        torch.manual_seed(7)
        for name, parameter in model.named_parameters():
            if is_touched(name, parameter) and name not in {"lm_head.weight", "model.norm.weight"}:
                parameter.add_(torch.randn_like(parameter) * by * parameter.std())

    return changed(source, folder, touch)


DENSE_PREDECESSORS = "{name: w, method: wanda, sparsity: 0.5, predecessors: dense}"


def behind(folder: Path, names: str) -> str:
    parts = [part.model_dump(mode="json") for part in steps(parse_recipe(names))]
    first = {"name": "theirs", "method": "external", "source": str(folder)}
    return json.dumps({"name": "c", "method": "composed", "parts": [first, *parts]})


def weights_of(decoder: Decoder, variant: Variant) -> dict[str, Tensor]:
    return {
        name: variant.changes[name].weight(matrix.weight) if name in variant.changes else matrix.weight
        for name, matrix in decoder.matrices.items()
    }


@pytest.mark.third(0)
@pytest.mark.parametrize(
    "names",
    [
        *("sparsegpt-50", "admm-50", "wanda-50+dsnot", "wanda-50", "gptq-4bit"),
        *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("wanda-50+admm", "magnitude-2of4+dsnot")),
    ],
)
def test_recipes_rebuild_the_checkpoint_and_not_its_base_model(tiny_folder: Path, tmp_path: Path, names: str) -> None:
    theirs = retouched(tiny_folder, tmp_path / "tuned", lambda name, _: name.endswith("proj.weight"), 0.5)
    dense, tuned = load_decoder(tiny_folder), load_decoder(theirs)
    tokens = calibration_tokens(dense.tokenizer, SPEC)
    composed = prune(dense, parse_recipe(behind(theirs, names)), tokens=tokens, cache=tmp_path)
    direct = prune(tuned, parse_recipe(names), tokens=tokens)
    found = weights_of(dense, composed)
    for name, expected in weights_of(tuned, direct).items():
        assert torch.equal(found[name], expected), name
        mask = composed.changes[name].mask
        assert mask is None or torch.equal(mask, direct.masks[name])
    # Against the dense model its own weights are not enough.
    assert all(change.values is not None or change.codes is not None for change in composed.changes.values())


def is_outside(name: str, parameter: nn.Parameter) -> bool:
    """Return True for gains and shifts of norms, embeddings and learned positions: nothing inside attention or MLP."""
    return (parameter.dim() == 1 and ("norm" in name or "ln_" in name)) or "embed" in name or "wpe" in name


@pytest.mark.third(2)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_inputs_come_through_the_checkpoints_gains_embeddings_and_positions(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "dense", architecture, tie_word_embeddings=False)
    final = {"model.decoder.final_layer_norm", "transformer.ln_f"}
    theirs = retouched(
        folder,
        tmp_path / "gains",
        lambda name, each: is_outside(name, each) and name.rpartition(".")[0] not in final,
        1,
    )
    dense, tuned = load_decoder(folder), load_decoder(theirs)
    tokens = calibration_tokens(dense.tokenizer, SPEC)
    before = {name: (each.data_ptr(), each.clone()) for name, each in dense.model.named_parameters()}
    calibrated = calibrate(tuned, SPEC, "tiny")
    for names in ("wanda-50", DENSE_PREDECESSORS, "heads-50", "neurons-25-flap"):
        composed = prune(dense, parse_recipe(behind(theirs, names)), tokens=tokens, cache=tmp_path)
        direct = prune(tuned, parse_recipe(names), calibrated.activation_stats, tokens=tokens)
        assert set(composed.changes) == set(direct.changes)
        assert all(torch.equal(mask, direct.masks[name]) for name, mask in composed.masks.items()), names
        for name, bias in direct.parameters.items():
            torch.testing.assert_close(composed.parameters[name], bias)
    for name, parameter in dense.model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])
    unlike = prune(dense, parse_recipe("wanda-50"), tokens=tokens)
    assert unlike.hash != prune(tuned, parse_recipe("wanda-50"), tokens=tokens).hash


def test_regrown_weights_are_dense_where_the_checkpoint_only_masked(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "dense")
    dense = load_decoder(folder)
    tokens = calibration_tokens(dense.tokenizer, SPEC)
    variant = prune(dense, parse_recipe("wanda-50+dsnot"), tokens=tokens)
    assert variant.facts["dsnot_exchanges"] > 0
    assert all(change.values is None for change in variant.changes.values()), "a mask alone says it"
