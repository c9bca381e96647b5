"""Recipes: their classes, parameters and names. No torch here, so that planning is fast.

A new recipe is a class in a module of this folder, in the union at its end, and its computation is in
`prunescope.pipelines.pruning.methods`.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeGuard, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.safe_yaml import parse_yaml
from prunescope.pipelines.core.suggestions import did_you_mean, similar_names
from prunescope.pipelines.core.validation_errors import first_problem
from prunescope.pipelines.recipes.base import BaseRecipe, MaskingRecipe, MatrixRecipe
from prunescope.pipelines.recipes.baselines import DenseRecipe, NoiseKind, NoiseRecipe
from prunescope.pipelines.recipes.depth import DepthRecipe
from prunescope.pipelines.recipes.external import ExternalRecipe
from prunescope.pipelines.recipes.mixed import MixedRecipe
from prunescope.pipelines.recipes.python import PythonRecipe
from prunescope.pipelines.recipes.quantization import AWQ, GPTQ, RTN, AnyQuantization, QuantizationRecipe
from prunescope.pipelines.recipes.repair import DistillRecipe, Repair, RepairRecipe
from prunescope.pipelines.recipes.structure import AnyStructure, Flap, Heads, Neurons, StructuredRecipe
from prunescope.pipelines.recipes.weights import ADMM, RIA, DSnoT, Magnitude, SparseGPT, Wanda, WeightRecipe

__all__ = [
    "ADMM", "AWQ", "GPTQ", "RIA", "RTN", "DSnoT", "DenseRecipe", "DepthRecipe", "DistillRecipe",
    "ExternalRecipe", "Flap", "Heads", "Magnitude", "MaskingRecipe", "MatrixRecipe", "MixedRecipe", "Neurons",
    "NoiseKind", "NoiseRecipe", "PythonRecipe", "Repair", "RepairRecipe", "SparseGPT", "StructuredRecipe", "Wanda",
]  # fmt: skip

SingleRecipe = (
    DenseRecipe
    | WeightRecipe
    | AnyQuantization
    | AnyStructure
    | DepthRecipe
    | MixedRecipe
    | ExternalRecipe
    | PythonRecipe
    | NoiseRecipe
    | RepairRecipe
    | DistillRecipe
)
KINDS: tuple[type[SingleRecipe], ...] = get_args(SingleRecipe)
# Recipes that change matrices layer by layer.
LayerwiseRecipe = MatrixRecipe | MixedRecipe
_NEEDS_A_MASK = "improves an earlier mask; write it after one, as in wanda-50+dsnot"


class ComposedRecipe(BaseRecipe):
    """A sequence of recipes, each applied to the result of the earlier ones (`attn-drop-4+wanda-50`).

    Attributes:
        parts: the recipes in order; they cannot be `dense`, noise, mixtures or compositions.
    """

    method: Literal["composed"] = "composed"
    parts: tuple[Annotated[SingleRecipe, Field(discriminator="method")], ...] = Field(
        min_length=2, examples=[["wanda-50", "rtn-4bit"]]
    )

    @field_validator("parts", mode="before")
    @classmethod
    def _names_and_mappings(cls, parts: object) -> object:
        """Parse names, and name unnamed mappings after their method."""
        if not isinstance(parts, (list, tuple)):
            return parts
        fields = [_spelled(part, part) if isinstance(part, str) else part for part in parts]
        return [{"name": part.get("method"), **part} if isinstance(part, dict) else part for part in fields]

    @model_validator(mode="after")
    def _is_valid_sequence(self) -> "ComposedRecipe":
        for part in self.parts:
            if isinstance(part, (DenseRecipe, NoiseRecipe)):
                raise ValueError(f"{part.name} prunes nothing; it cannot be part of a composition")  # noqa: TRY004
            if isinstance(part, MixedRecipe):
                raise ValueError(  # noqa: TRY004 (pydantic reads ValueError)
                    f"{part.name} is already a mixture of recipes; it cannot be part of a composition"
                )
            if part.calibration is not None:
                raise ValueError(f"{part.name} has its own `calibration`; set one next to `parts`, for all of them")
        for index, part in enumerate(self.parts):
            earlier = self.parts[:index]
            if isinstance(part, Repair):
                part.require_place(earlier, self.parts[index + 1 :])
            if isinstance(part, ExternalRecipe) and earlier:
                raise ValueError(f"{part.name} is a whole checkpoint; it can only come first")
            quantized = next((recipe for recipe in earlier if isinstance(recipe, QuantizationRecipe)), None)
            if isinstance(part, MatrixRecipe) and part.starts_dense and quantized is not None:
                raise ValueError(
                    f"{part.name} starts from the dense weights and would undo {quantized.name}; prune first, then "
                    "quantize"
                )
            if isinstance(part, DSnoT) and not any(isinstance(recipe, MaskingRecipe) for recipe in earlier):
                raise ValueError(f"{part.name} {_NEEDS_A_MASK}")
            structured = next((recipe for recipe in earlier if isinstance(recipe, StructuredRecipe)), None)
            if isinstance(part, DSnoT) and structured is not None:
                raise ValueError(
                    f"{part.name} would restore weights of units that {structured.name} removed; put it first"
                )
        return self

    @property
    def members(self) -> tuple[BaseRecipe, ...]:
        """Return its parts."""
        return self.parts


def _stands_alone(recipe: SingleRecipe | ComposedRecipe) -> SingleRecipe | ComposedRecipe:
    if isinstance(recipe, DSnoT):
        raise ValueError(f"{recipe.name} {_NEEDS_A_MASK}")  # noqa: TRY004 (pydantic reads ValueError)
    if isinstance(recipe, Repair):
        recipe.require_place((), ())
    return recipe


Recipe = Annotated[SingleRecipe | ComposedRecipe, Field(discriminator="method"), AfterValidator(_stands_alone)]


def _written(recipe: object) -> object:
    """Return the recipe that a name spells, or a mapping completed with a name."""
    if isinstance(recipe, str):
        try:
            return parse_recipe(recipe)
        except InputError as error:  # pydantic adds the key to a ValueError
            raise ValueError(str(error)) from error
    return _with_name(recipe) if isinstance(recipe, dict) else recipe


def _with_name(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's fields; if they have no name, make it from the method and the parameters."""
    if "name" in fields or not isinstance(fields.get("method"), str):
        return fields
    given = {key: value for key, value in fields.items() if key not in {"method", "calibration", "parts"}}
    words = [fields["method"]]
    if isinstance(sparsity := given.get("sparsity"), int | float):
        words.append(f"{100 * sparsity:g}")
    if {"keep", "block"} <= given.keys():
        words.append(f"{given['keep']}of{given['block']}")
    for key in [key for key in given if key not in {"sparsity", "keep", "block"}]:
        words += [str(key), *re.findall(r"[A-Za-z0-9._+]+", str(given[key]))]
    return {"name": "-".join(words)[:100], **fields}


# A recipe as written in a study's YAML: its name, or its parameters.
WrittenRecipe = Annotated[Recipe, BeforeValidator(_written, json_schema_input_type=str | Recipe)]


def shares_passes(recipe: Recipe) -> TypeGuard[LayerwiseRecipe]:
    """Return whether a recipe reads inputs with dense predecessors, so that one pass serves all such recipes."""
    return isinstance(recipe, LayerwiseRecipe) and recipe.predecessors == "dense" and recipe.reads != "nothing"


_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Recipe, config=ConfigDict(hide_input_in_errors=True))


def steps(recipe: Recipe) -> tuple[SingleRecipe, ...]:
    """Return the parts of a composition in order, or the recipe itself."""
    return recipe.parts if isinstance(recipe, ComposedRecipe) else (recipe,)


def runs_python(recipe: Recipe) -> bool:
    """Return whether a recipe runs a method's file, as itself, in a composition or in a mixture."""
    mixed = recipe.matrix_recipes.values() if isinstance(recipe, MixedRecipe) else ()
    return any(isinstance(each, PythonRecipe) for each in (*steps(recipe), *mixed))


def require_python(recipes: Iterable[Recipe], *, is_allowed: bool) -> None:
    """Raise an InputError if one of the recipes runs a method's file, and that is not allowed."""
    names = [recipe.name for recipe in recipes if runs_python(recipe)]
    if names and not is_allowed:
        raise InputError(
            f"recipe {names[0]}: runs the code of a file with all your rights; read it, then pass --allow-python"
        )


def changes_matrices(recipe: Recipe) -> bool:
    """Return whether a recipe changes weights of matrices; some only drop sublayers or change nothing."""
    if isinstance(recipe, MixedRecipe):
        return bool(recipe.matrix_recipes)
    # The changes of an external checkpoint are unknown until it is loaded.
    others = DenseRecipe | NoiseRecipe | DepthRecipe | Repair
    return any(not isinstance(step, others) for step in steps(recipe))


FORMS: tuple[tuple[str, str], ...] = tuple(example for kind in KINDS for example in kind.EXAMPLES)
# Methods without a name of their own.
_MAPPINGS = {
    "external": "source: ./their-model",
    "mixed": "treatments: {attn.3: wanda-50, mlp.5: drop}",
    "python": "file: my_method.py, sparsity: 0.5",
}
# `attn+mlp` is one word.
_PLUS = re.compile(r"(?<!attn)\+")


def parse_recipe(text: str) -> Recipe:
    """Return the recipe with a name such as `wanda-50`, `attn-drop-4` or `attn-drop-4+wanda-2of4`.

    A recipe with other parameters is written as in a study's YAML: `{name: mine, method: wanda, sparsity: 0.6}`.

    Raises:
        InputError: the name has none of the known forms, or its numbers are out of range.
    """
    if text.lstrip().startswith("{"):
        mapping = parse_yaml(text, f"recipe {text[:200]!r}")
        if not isinstance(mapping, dict):
            raise InputError(f"recipe {text!r}: not a YAML mapping; write it as `{{name: mine, method: wanda, …}}`")
        return _validated(text, _with_name(mapping))
    parts = _PLUS.split(text)
    fields = [_spelled(part, text) for part in parts]
    return _validated(text, fields[0] if len(parts) == 1 else {"name": text, "method": "composed", "parts": fields})


def as_treatment(recipe: MatrixRecipe) -> object:
    """Return a recipe as a mixture's `treatments` have it: its name if that spells it, else its parameters."""
    if is_spelled(recipe):
        return recipe.name
    changed = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"predecessors"})
    return {"name": recipe.name, "method": recipe.method} | changed


def is_spelled(recipe: BaseRecipe) -> bool:
    """Return whether a recipe is that of its name, up to the state of its predecessors."""
    try:
        spelled = parse_recipe(recipe.name)
    except InputError:
        return False
    dense = {"predecessors": "dense"}
    return spelled.model_copy(update=dense).hash == recipe.model_copy(update=dense).hash


def _spelled(name: str, text: str) -> dict[str, object]:
    for kind in KINDS:
        if match := kind.SPELLING.fullmatch(name):
            return {"name": name, **kind.spelled(match)}
    if not name:
        raise InputError(f"recipe {text!r}: a `+` must be between two recipes")
    if name in _MAPPINGS:
        raise InputError(f"recipe {name!r} is written `{{name: mine, method: {name}, {_MAPPINGS[name]}}}`")
    like = similar_names(name, [form for form, _ in FORMS], n=3)
    hint = did_you_mean(name, like, n=3)
    if "-" in name and like and name.split("-", maxsplit=1)[0] == like[0].split("-")[0]:
        hint += "Per cents are 1 to 99, bits 2 to 8, counts at least 1. "
    part = "" if name == text else f" in {text!r}"
    raise InputError(f"unknown recipe {name!r}{part}; {hint}`prunescope recipes` lists all forms")


def _validated(text: str, fields: dict[str, object]) -> Recipe:
    try:
        return _ADAPTER.validate_python(fields)
    except ValidationError as error:
        raise InputError(f"recipe {text!r}: {first_problem(error, Recipe, fields)}") from error
