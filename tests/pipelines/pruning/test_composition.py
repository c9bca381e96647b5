"""Tests that each recipe of a composition works on the model that the earlier ones left."""

import polars as pl
import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import CalibrationResult, calibrate, calibration_tokens
from prunescope.pipelines.pruning.methods.depth import influences
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.pipelines.models.recorded import inputs_of
from tests.pipelines.models.reference_models import copy_of, write_masks, write_zeros
from tests.tiny_models import SHORT_TEXT, save_tiny

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=5, length=24)
SUBLAYERS = [f"{kind}.{layer}" for layer in range(5) for kind in ("attn", "mlp")]
DOWN = [f"model.layers.{index}.mlp.down_proj" for index in range(5)]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load_decoder(save_tiny(tmp_path_factory.mktemp("models") / "llama", num_hidden_layers=5))


@pytest.fixture(scope="module")
def tokens(decoder: Decoder) -> Tensor:
    return calibration_tokens(decoder.tokenizer, SPEC)


@pytest.fixture(scope="module")
def calibrated(decoder: Decoder) -> CalibrationResult:
    return calibrate(decoder, SPEC, "tiny")


@pytest.fixture
def make(decoder: Decoder, calibrated: CalibrationResult, tokens: Tensor):
    return lambda name: prune(
        decoder, parse_recipe(name), calibrated.activation_stats, calibrated.block_influence, tokens
    )


def test_a_drop_after_pruning_measures_the_pruned_model(
    decoder: Decoder, calibrated: CalibrationResult, tokens: Tensor, make
) -> None:
    alone, after = make("attn+mlp-drop-2"), make("magnitude-90+attn+mlp-drop-2")
    copied = copy_of(decoder)
    half = make("magnitude-90")
    write_masks(copied, half, set(half.masks))
    brute = influences(copied, SUBLAYERS, tokens)
    assert after.facts["drop_order"] == sorted(brute, key=brute.__getitem__)
    assert after.facts["drop_scores"] == pytest.approx(sorted(brute.values()), rel=1e-4)
    assert after.facts["drop_scores"] != pytest.approx(alone.facts["drop_scores"], rel=1e-2)
    # The order turns out to be another one here, so that it matters what was measured.
    assert after.facts["drop_order"] != alone.facts["drop_order"]


def test_changes_in_sublayers_dropped_later_are_removed(decoder: Decoder, make) -> None:
    variant = make("heads-50+wanda-50+attn-drop-2")
    inside = {name for each in decoder.sublayers if each.label in variant.dropped for name in each.matrices}
    assert inside
    assert set(variant.changes) == set(decoder.matrices) - inside
    assert len(variant.facts["structure"]) == 3
    assert not inside & set(variant.facts["structure"])
    row = variant_row(decoder, "tiny", parse_recipe("wanda-50+attn-drop-2"), variant, None, 1, 1.0)
    dropped = sum(each.size for each in decoder.sublayers if each.label in variant.dropped)
    assert row["parameters_removed"][0] == row["weights_masked"][0] + dropped


@pytest.mark.parametrize("second", ["wanda-50", "magnitude-50", "heads-50", "neurons-25", "flap-30"])
def test_matrices_of_dropped_sublayers_stay_unchanged_and_uncounted(decoder: Decoder, make, second: str) -> None:
    variant = make(f"block-drop-1+attn-drop-1+{second}")
    gone = [each for each in decoder.sublayers if each.label in variant.dropped]
    assert [each.kind for each in gone].count("attn") == 2
    inside = {name for each in gone for name in each.matrices}
    assert not inside & set(variant.changes)
    assert not inside & set(variant.facts.get("structure", {}))
    assert not any(name.rpartition(".")[0] in inside for name in variant.parameters)
    assert variant.changes


def test_pruning_after_a_drop_sees_the_inputs_without_the_dropped_sublayers(
    decoder: Decoder, tokens: Tensor, make
) -> None:
    first, then = make("attn-drop-2"), make("{name: w, method: wanda, sparsity: 0.5, predecessors: dense}")
    composed = prune(
        decoder,
        parse_recipe(
            "{name: c, method: composed, parts: [{name: a, method: attn-drop, layers: "
            f"{sorted(int(label[5:]) for label in first.dropped)}}}, "
            "{name: w, method: wanda, sparsity: 0.5, predecessors: dense}]}"
        ),
        tokens=tokens,
    )
    copied = copy_of(decoder)
    write_zeros(copied, set(first.dropped))
    x = inputs_of(copied, DOWN, tokens)
    for name in DOWN:
        scores = decoder.matrices[name].weight.double().abs() * x[name].norm(dim=0)
        for values, keep in zip(scores, composed.masks[name], strict=True):
            assert values[~keep].max() <= values[keep].min() * (1 + 1e-5)
    assert any(not torch.equal(composed.masks[name], then.masks[name]) for name in DOWN)


def test_units_after_pruning_are_scored_on_the_pruned_weights_and_their_inputs(
    decoder: Decoder, tokens: Tensor, make
) -> None:
    variant = make("magnitude-50+neurons-25-flap")
    half = make("magnitude-50")
    copied = copy_of(decoder)
    write_masks(copied, half, set(half.masks))
    x = inputs_of(copied, DOWN, tokens)
    plain = make("neurons-25-flap")
    for name in DOWN:
        weight = copied.model.get_submodule(name).weight.detach().double()
        scores = x[name].var(dim=0, correction=0) * weight.square().sum(dim=0)
        removed = variant.facts["structure"][name]["removed"]
        assert removed == sorted(scores.argsort()[:24].tolist())
        expected = weight[:, removed] @ x[name].mean(dim=0)[removed]
        torch.testing.assert_close(variant.parameters[f"{name}.bias"].double(), expected, rtol=1e-4, atol=1e-6)
        # What magnitude set to zero stays zero.
        assert not (variant.masks[name] & ~half.masks[name]).any()
    assert variant.facts["structure"] != plain.facts["structure"]


def in_bfloat16(copied: Decoder) -> Decoder:
    """Round all weights of a copy below its head to bfloat16, and return the copy."""
    for parameter in copied.trunk.parameters():
        parameter.data = parameter.data.bfloat16()
    return copied


def test_units_after_a_recipe_are_measured_in_the_calibrations_type(decoder: Decoder, tokens: Tensor) -> None:
    recipe = parse_recipe("magnitude-50+neurons-25-flap")
    exact, rounded = (prune(decoder, recipe, tokens=tokens, dtype=dtype) for dtype in (None, torch.bfloat16))
    half = prune(decoder, parse_recipe("magnitude-50"))
    copied = copy_of(decoder)
    write_masks(copied, half, set(half.masks))
    weights = {name: copied.model.get_submodule(name).weight.detach().double() for name in DOWN}
    x = inputs_of(in_bfloat16(copied), DOWN, tokens)
    for name in DOWN:
        removed = rounded.facts["structure"][name]["removed"]
        expected = weights[name][:, removed] @ x[name].mean(dim=0)[removed]
        away = [
            float((variant.parameters[f"{name}.bias"].double() - expected).norm() / expected.norm())
            for variant in (rounded, exact)
        ]
        assert away[0] < 1e-5 < 1e-4 < away[1]


@pytest.mark.parametrize(
    ("first", "choice"),
    [
        ("", "-greedy"),
        *(pytest.param("", choice, marks=pytest.mark.exhaustive) for choice in ("-iterative", "-consecutive")),
        *(("magnitude-75+", choice) for choice in ("-greedy", "-iterative", "-consecutive")),
    ],
)
def test_every_measured_choice_of_drops_is_made_on_the_pruned_model_in_the_calibrations_type(
    decoder: Decoder, tokens: Tensor, first: str, choice: str
) -> None:
    copied, drops = copy_of(decoder), parse_recipe(f"attn+mlp-drop-2{choice}")
    if first:
        half = prune(decoder, parse_recipe("magnitude-75"))
        write_masks(copied, half, set(half.masks))
    recipe = parse_recipe(f"{first}{drops.name}")
    exact, rounded = (prune(decoder, recipe, tokens=tokens, dtype=dtype) for dtype in (None, torch.bfloat16))
    for found, change, error in ((exact, lambda model: model, 1e-4), (rounded, in_bfloat16, 0)):
        direct = prune(change(copied), drops, tokens=tokens)
        assert found.dropped == direct.dropped
        assert found.facts["drop_order"] == direct.facts["drop_order"]
        assert found.facts["drop_scores"] == pytest.approx(direct.facts["drop_scores"], rel=error, abs=0)
    assert rounded.facts["drop_scores"] != exact.facts["drop_scores"]
    assert rounded.facts["drop_scores"] == pytest.approx(exact.facts["drop_scores"], rel=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in decoder.model.parameters())


def test_units_of_two_recipes_add_up(make) -> None:
    both = make("neurons-25+heads-50")
    assert {fact["kind"] for fact in both.facts["structure"].values()} == {"neurons", "heads"}
    first, second = make("neurons-25"), make("neurons-25+neurons-50")
    for name, fact in second.facts["structure"].items():
        assert set(first.facts["structure"][name]["removed"]) < set(fact["removed"])
        assert len(fact["removed"]) == 48
        assert int((~second.masks[name].any(dim=0)).sum()) == 48


def test_a_second_drop_chooses_among_the_remaining_units(decoder: Decoder, make) -> None:
    variant = make("attn-drop-2+attn+mlp-drop-3+block-drop-2")
    assert len(variant.dropped) == len(set(variant.dropped))
    assert len(variant.facts["drop_order"]) >= 2
    with pytest.raises(InputError, match="of the model's 5 only 3 are left .*drop fewer"):
        make("attn-drop-2+attn-drop-3")
    with pytest.raises(InputError, match=r"attn\.1 is already gone"):
        make(
            "{name: c, method: composed, parts: [{name: a, method: attn-drop, layers: [1]}, "
            "{name: b, method: attn-drop, layers: [1, 2]}]}"
        )


def test_a_drop_after_pruning_needs_tokens_and_not_the_dense_models_table(decoder: Decoder, tokens: Tensor) -> None:
    recipe = parse_recipe("magnitude-50+attn-drop-1")
    assert recipe.is_calibrated
    with pytest.raises(InputError, match="attn-drop-1 needs calibration tokens"):
        prune(decoder, recipe)
    nonsense = pl.DataFrame({"unit": ["attn"], "layer": [0], "influence": [-1.0]})
    assert prune(decoder, recipe, None, nonsense, tokens).dropped == prune(decoder, recipe, tokens=tokens).dropped


@pytest.mark.parametrize("name", ["magnitude-50+magnitude-50", "wanda-50+magnitude-20"])
def test_a_part_that_changes_nothing_is_an_error(make, name: str) -> None:
    with pytest.raises(ComputationError, match=r"its part magnitude-\d0 changes nothing; leave it out"):
        make(name)
    assert len(make("block-drop-1+block-drop-1").dropped) == 4, "the second drops the next one"
