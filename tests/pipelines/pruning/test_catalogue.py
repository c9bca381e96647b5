"""Tests that every recipe documents its effect, its source and its parameters."""

from typing import get_args

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.recipes import (
    FORMS,
    KINDS,
    DenseRecipe,
    ExternalRecipe,
    MixedRecipe,
    NoiseRecipe,
    parse_recipe,
)
from prunescope.pipelines.recipes.listing import recipe_forms, recipe_parameters


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_parameter_of_every_method_has_a_meaning(kind: type) -> None:
    for method in get_args(kind.model_fields["method"].annotation):
        for row in recipe_parameters(method):
            assert row["meaning"], (method, row["parameter"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_recipe_names_its_source(kind: type) -> None:
    (source,) = {row["source"] for row in recipe_forms() if row["form"] in dict(kind.EXAMPLES)} or {""}
    assert bool(source) == (kind not in {DenseRecipe, NoiseRecipe, ExternalRecipe, MixedRecipe}), "name it in the class"


def test_every_form_is_listed_and_parses_to_its_own_method() -> None:
    rows = [row for row in recipe_forms() if row["method"] not in {"external", "mixed"}]
    assert [row["form"] for row in rows] == [form for form, _ in FORMS]
    for row in rows:
        recipe = parse_recipe(row["form"])
        assert row["method"] in {recipe.method, getattr(recipe, "parts", (recipe,))[-1].method}


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="no method 'lottery'; there are dense, magnitude, wanda"):
        recipe_parameters("lottery")


def test_a_misspelled_name_suggests_the_right_one() -> None:
    with pytest.raises(InputError, match=r"unknown recipe 'wnda-50'; did you mean wanda-50.*`prunescope recipes`"):
        parse_recipe("wnda-50")
