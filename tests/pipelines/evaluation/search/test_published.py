"""Published recipes at the budget of a search reach it, on several shapes of models."""

import math

import pytest

from prunescope.pipelines.evaluation.search.published import published_recipes
from prunescope.pipelines.recipes import DepthRecipe, MaskingRecipe, QuantizationRecipe, parse_recipe, steps

# Weights of attention and MLP by layer.
SHAPES: dict[str, list[tuple[int, int]]] = {
    "multi-head": [(4 * 64**2, 8 * 64**2)] * 12,
    "grouped queries": [(960 * 960 * 2 + 2 * 960 * 320, 3 * 960 * 2560)] * 32,
    "mixed layers": [(1000, 3000), (200, 3000), (1000, 9000), (200, 3000)],
    "one layer": [(100, 200)],
}


def sizes_of(shape: str) -> dict[str, float]:
    return {
        f"{kind}.{layer}": size
        for layer, pair in enumerate(SHAPES[shape])
        for kind, size in zip(("attn", "mlp"), pair, strict=True)
    }


def least_removed(name: str, sizes: dict[str, float]) -> float:
    """Return the share that a recipe removes at least, whichever units it drops."""
    total, left = sum(sizes.values()), sum(sizes.values())
    for step in steps(parse_recipe(name)):
        if isinstance(step, DepthRecipe):
            units = [pair if step.unit == "block" else pair[step.unit == "mlp"] for pair in zip_layers(sizes)]
            left -= sum(sorted(sum(unit) if isinstance(unit, tuple) else unit for unit in units)[: step.count])
        elif isinstance(step, MaskingRecipe):
            assert step.sparsity is not None
            left *= 1 - step.sparsity
    return 1 - left / total


def zip_layers(sizes: dict[str, float]) -> list[tuple[float, float]]:
    return [(sizes[f"attn.{layer}"], sizes[f"mlp.{layer}"]) for layer in range(len(sizes) // 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.005, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.77, 0.95])
def test_every_recipe_removes_the_share_and_masks_no_more(shape: str, share: float) -> None:
    sizes = sizes_of(shape)
    found = published_recipes(sizes, share, "parameters")
    for name in found:
        removed, methods = least_removed(name, sizes), [step.method for step in steps(parse_recipe(name))]
        assert removed >= share - 1e-12, name
        if {"wanda", "ria", "sparsegpt"} & set(methods):
            assert removed <= share + 1e-4, name
        elif isinstance(drop := parse_recipe(name), DepthRecipe) and drop.count > 1:
            fewer = f"{drop.method}-{drop.count - 1}"
            assert least_removed(fewer, sizes) < share, name
    assert len(set(found)) == len(found)
    assert any(name.endswith("-owl") for name in found) == (0.08 < share < 0.92)


def test_of_a_usual_model_all_kinds_are_there() -> None:
    assert published_recipes(sizes_of("multi-head"), 0.2, "parameters") == [
        *("wanda-20", "ria-20", "sparsegpt-20", "wanda-20-owl", "attn-drop-8", "mlp-drop-4", "block-drop-3"),
        # 3 of 12 attentions of a third of the weights each: a twelfth of all; (0.2 − 1/12) / (11/12) of the rest.
        f"attn-drop-3+sparsegpt-{100 * math.ceil(1e4 * (0.2 - 1 / 12) / (11 / 12)) / 1e4:g}",
    ]


def test_a_drop_of_all_layers_is_left_out() -> None:
    names = published_recipes(sizes_of("multi-head"), 0.4, "parameters")
    assert not any(name.startswith("attn-drop") and "+" not in name for name in names)
    assert not any("drop" in name for name in published_recipes(sizes_of("one layer"), 0.2, "parameters"))


def test_by_bytes_masks_cost_a_bit_a_weight_and_codes_take_part() -> None:
    found = published_recipes(sizes_of("grouped queries"), 0.4, "bytes")
    assert {"wanda-46.25", "ria-46.25", "sparsegpt-46.25", "gptq-8bit"} <= set(found)
    coded = [parse_recipe(name) for name in published_recipes(sizes_of("grouped queries"), 0.7, "bytes")]
    assert [recipe.bits for recipe in coded if isinstance(recipe, QuantizationRecipe)] == [4]


def test_milliseconds_are_saved_by_drops_alone() -> None:
    milliseconds = {"attn.0": 2.0, "mlp.0": 1.0, "attn.1": 2.0, "mlp.1": 1.0}
    assert published_recipes(milliseconds, 0.3, "milliseconds") == ["attn-drop-1", "block-drop-1"]
