"""Tests of layer ratios, included modules and unreached experts of a recipe on a whole model."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import CalibrationResult, calibrate, calibration_tokens
from prunescope.pipelines.pruning.methods.layer_sparsity import layer_sparsities
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.tiny_models import SHORT_TEXT, save_tiny

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=4, length=32, seed=1)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Load three layers, of which two have a few weights far larger than the others."""
    found = load_decoder(save_tiny(tmp_path_factory.mktemp("models") / "outliers"))
    generator = torch.Generator().manual_seed(0)
    for layer, share in zip(found.layers, (0.02, 0.0, 0.008), strict=True):
        for sublayer in layer.sublayers:
            for matrix in sublayer.matrices.values():
                matrix.stored.mul_(torch.where(torch.rand(matrix.stored.shape, generator=generator) < share, 20, 1))
    return found


@pytest.fixture(scope="module")
def calibrated(decoder: Decoder) -> CalibrationResult:
    return calibrate(decoder, SPEC, "tiny")


@pytest.fixture(scope="module")
def tokens(decoder: Decoder) -> Tensor:
    return calibration_tokens(decoder.tokenizer, SPEC)


def layer_sizes(decoder: Decoder, is_counted: Callable[[Sublayer, str], bool]) -> list[int]:
    """Return the number of weights of each layer, of its counted matrices alone."""
    return [
        sum(m.weight.numel() for s in layer.sublayers for name, m in s.matrices.items() if is_counted(s, name))
        for layer in decoder.layers
    ]


def mean_of(sparsities: Sequence[float | None], sizes: Sequence[int]) -> float:
    """Return the share of all weights that is removed."""
    return sum((each or 0.0) * size for each, size in zip(sparsities, sizes, strict=True)) / sum(sizes)


def outlier_shares(
    decoder: Decoder, stats: pl.DataFrame, kind: str | None, times: float
) -> tuple[list[float], list[int]]:
    """Compute OWL in float64 as the paper describes it: all scores of a layer in one list."""
    shares, sizes = [], []
    for layer in decoder.layers:
        scores: list[float] = []
        for sublayer in layer.sublayers:
            for name, matrix in sublayer.matrices.items():
                if kind in {None, sublayer.kind}:
                    row = stats.row(by_predicate=pl.col("module") == name, named=True)
                    norms = torch.tensor(row["second_moment"]).double().sqrt()
                    scores += (matrix.weight.double().abs() * norms).flatten().tolist()
        mean = sum(scores) / len(scores)
        shares.append(sum(score > times * mean for score in scores) / len(scores))
        sizes.append(len(scores))
    return shares, sizes


@pytest.mark.parametrize("fields", ["", ", modules: [attn]", ", owl_m: 3, owl_lambda: 0.2"])
def test_owl_prunes_layers_with_outliers_less_and_reaches_the_target_exactly(
    decoder: Decoder, calibrated: CalibrationResult, fields: str
) -> None:
    recipe = parse_recipe(f"{{name: r, method: wanda, sparsity: 0.6, ratios: owl{fields}}}")
    found = layer_sparsities(decoder, recipe, calibrated.activation_stats)
    kind = recipe.modules[0] if recipe.modules else None
    shares, sizes = outlier_shares(decoder, calibrated.activation_stats, kind, recipe.owl_m)
    assert mean_of(found, sizes) == pytest.approx(0.6, abs=1e-12)
    mean = mean_of(shares, sizes)
    farthest = max(abs(share - mean) for share in shares)
    assert found == pytest.approx([0.6 + recipe.owl_lambda * (mean - share) / farthest for share in shares], abs=1e-12)
    assert max(abs(each - 0.6) for each in found) == pytest.approx(recipe.owl_lambda)
    assert found[0] < found[2] < found[1], "more outliers, fewer weights lost"


def test_owl_weighs_layers_by_the_weights_that_are_included(decoder: Decoder, calibrated: CalibrationResult) -> None:
    recipe = parse_recipe(
        "{name: r, method: wanda, sparsity: 0.5, ratios: owl, modules: ['*.0.*', '*.1.mlp.*', '*2*k_proj']}"
    )
    found = layer_sparsities(decoder, recipe, calibrated.activation_stats)
    included = ("", ".mlp.", "k_proj")  # of each layer
    sizes = layer_sizes(decoder, lambda sublayer, name: included[sublayer.layer] in name)
    assert len(set(sizes)) == 3
    assert mean_of(found, sizes) == pytest.approx(0.5, abs=1e-12)
    assert len(set(found)) == 3


def test_owl_ignores_layers_dropped_before(decoder: Decoder, calibrated: CalibrationResult, tokens: Tensor) -> None:
    recipe, stats = parse_recipe("wanda-50-owl"), calibrated.activation_stats
    dropped = ("attn.0", "mlp.0", "mlp.1")
    found = layer_sparsities(decoder, recipe, stats, dropped)
    sizes = layer_sizes(decoder, lambda sublayer, _: sublayer.label not in dropped)
    assert sizes[0] == 0 < sizes[1] < sizes[2]
    assert found[0] == 0.5
    assert mean_of(found, sizes) == pytest.approx(0.5, abs=1e-12)
    variant = prune(decoder, parse_recipe("mlp-drop-1+wanda-50-owl"), stats, calibrated.block_influence, tokens)
    masked = torch.cat([~mask.flatten() for mask in variant.masks.values()])
    assert len(masked) == sum(layer_sizes(decoder, lambda sublayer, _: sublayer.label not in variant.dropped))
    assert float(masked.float().mean()) == pytest.approx(0.5, abs=0.5 / 64)


def test_layers_with_equal_outliers_get_equal_shares(tiny_folder: Path, tokens: Tensor) -> None:
    alike = load_decoder(tiny_folder)
    stats = calibrate(alike, SPEC, "tiny").activation_stats
    recipe = parse_recipe("{name: r, method: wanda, sparsity: 0.5, ratios: owl, owl_m: 1.0e+6}")
    assert layer_sparsities(alike, recipe, stats) == [0.5] * 3


@pytest.mark.parametrize("name", ["wanda-60-owl", "magnitude-60-owl", "ria-60-owl", "sparsegpt-60-owl", "admm-60-owl"])
def test_a_pruned_model_has_owls_shares(
    decoder: Decoder, calibrated: CalibrationResult, tokens: Tensor, name: str
) -> None:
    recipe = parse_recipe(name)
    assert (recipe.ratios, recipe.sparsity) == ("owl", 0.6)
    assert recipe.needs == ("activation_stats",)
    variant = prune(decoder, recipe, calibrated.activation_stats, None, tokens)
    sparsities = layer_sparsities(decoder, recipe, calibrated.activation_stats)
    for layer, sparsity in zip(decoder.layers, sparsities, strict=True):
        for sublayer in layer.sublayers:
            for matrix in sublayer.matrices:
                mask = variant.masks[matrix]
                # Rounded in each row, in the matrix, or in blocks of it.
                assert float((~mask).float().mean()) == pytest.approx(sparsity, abs=0.5 / mask.shape[1] + 1e-6)


def test_explicit_ratios_are_used_unchanged(decoder: Decoder) -> None:
    recipe = parse_recipe("{name: r, method: magnitude, ratios: [0, 0.25, 0.75]}")
    assert layer_sparsities(decoder, recipe, None) == [0, 0.25, 0.75]
    variant = prune(decoder, recipe)
    for layer, share in zip(decoder.layers, (0, 0.25, 0.75), strict=True):
        for sublayer in layer.sublayers:
            for name in sublayer.matrices:
                assert float((~variant.masks[name]).float().mean()) == share
    with pytest.raises(InputError, match="2 `ratios`, but the model has 3 layers"):
        prune(decoder, parse_recipe("{name: r, method: magnitude, ratios: [0.25, 0.75]}"))


def test_owl_is_refused_where_it_does_not_apply(decoder: Decoder, tokens: Tensor) -> None:
    with pytest.raises(InputError, match="needs activation_stats"):
        prune(decoder, parse_recipe("wanda-50-owl"), None, None, tokens)
    with pytest.raises(InputError, match="`owl_lambda` must be below"):
        parse_recipe("wanda-5-owl")
    with pytest.raises(InputError, match="unknown recipe"):
        parse_recipe("wanda-2of4-owl")
    with pytest.raises(InputError, match="same share in every layer"):
        parse_recipe("{name: r, method: wanda, keep: 2, block: 4, ratios: owl}")


def test_modules_choose_by_sublayer_and_by_pattern(decoder: Decoder) -> None:
    def chosen(*patterns: str) -> set[str]:
        recipe = parse_recipe(f"{{name: r, method: magnitude, sparsity: 0.5, modules: [{', '.join(patterns)}]}}")
        return set(prune(decoder, recipe).changes)

    names = set(decoder.matrices)
    assert chosen() == names
    assert chosen("attn") == {name for name in names if ".self_attn." in name}
    assert chosen("mlp") == {name for name in names if ".mlp." in name}
    assert chosen("'*q_proj'", "'model.layers.1.*'") == {
        name for name in names if name.endswith("q_proj") or name.startswith("model.layers.1.")
    }
    assert not any("head" in name or "embed" in name for name in names)


@pytest.mark.parametrize("pattern", ["q_proj", "attention", "*.experts.*", "lm_head"])
def test_a_pattern_that_matches_nothing_is_refused_with_examples(decoder: Decoder, pattern: str) -> None:
    recipe = parse_recipe(f"{{name: r, method: magnitude, sparsity: 0.5, modules: [mlp, '{pattern}']}}")
    with pytest.raises(InputError) as caught:
        prune(decoder, recipe)
    assert f"`modules` {pattern!r} matches no matrix" in str(caught.value)
    assert "attn, " in str(caught.value)
    assert "model.layers.0.self_attn.q_proj" in str(caught.value)


@pytest.fixture(scope="module")
def experts(tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder("mixtral")


ONE_TOKEN = torch.tensor([[7]])  # it reaches 2 of the 4 experts of every layer


@pytest.mark.parametrize("name", ["wanda-50", "ria-50", "sparsegpt-50", "admm-50", "awq-4bit", "gptq-4bit"])
def test_unreached_experts_are_refused_or_left_dense_and_counted(experts: Decoder, name: str) -> None:
    recipe = parse_recipe(name)
    with pytest.raises(InputError, match=r"no calibration token reached .*experts.*unreached: dense"):
        prune(experts, recipe, tokens=ONE_TOKEN)
    variant = prune(experts, recipe.model_copy(update={"unreached": "dense"}), tokens=ONE_TOKEN)
    left = set(experts.matrices) - set(variant.changes)
    assert variant.facts["matrices_unreached"] == len(left) == 3 * 2 * 2
    assert all("experts" in name for name in left)


def test_dsnot_keeps_masks_of_unreached_experts(experts: Decoder) -> None:
    before = prune(experts, parse_recipe("magnitude-50"))
    recipe = parse_recipe(
        "{name: r, method: composed, parts: [{name: a, method: magnitude, sparsity: 0.5},"
        " {name: b, method: dsnot, unreached: dense}]}"
    )
    variant = prune(experts, recipe, None, None, ONE_TOKEN)
    assert variant.facts["matrices_unreached"] == 12
    same = {name for name in before.masks if torch.equal(before.masks[name], variant.masks[name])}
    assert 12 <= len(same) < len(before.masks)


def test_owl_excludes_unreached_experts_from_its_mean(experts: Decoder) -> None:
    stats = calibrate(experts, SPEC, "tiny").activation_stats
    first = experts.layers[0].mlp
    left = {name for name in first.matrices if "experts" in name and not name.endswith("[0]")}
    reached = stats.filter(~pl.col("module").is_in(sorted(left)))
    with pytest.raises(InputError, match="activation_stats has no row for .*experts"):
        layer_sparsities(experts, parse_recipe("wanda-50-owl"), reached)
    recipe = parse_recipe("{name: r, method: wanda, sparsity: 0.5, ratios: owl, unreached: dense}")
    found = layer_sparsities(experts, recipe, reached)
    sizes = layer_sizes(experts, lambda _, name: name not in left)
    assert sizes[0] < sizes[1] == sizes[2]
    assert mean_of(found, sizes) == pytest.approx(0.5, abs=1e-12)
    assert len(set(found)) > 1
