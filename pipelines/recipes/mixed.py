"""The recipe that gives each sublayer, or each of its matrices, its own treatment. No torch here."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.core.validation_errors import first_problem
from prunescope.pipelines.recipes.base import BaseRecipe, MaskingRecipe, MatrixRecipe, Reads
from prunescope.pipelines.recipes.depth import DepthRecipe
from prunescope.pipelines.recipes.python import PythonRecipe
from prunescope.pipelines.recipes.quantization import AnyQuantization
from prunescope.pipelines.recipes.weights import ADMM, FirstWeightRecipe

_Matrices = FirstWeightRecipe | AnyQuantization | PythonRecipe
_KINDS: tuple[type[_Matrices], ...] = get_args(_Matrices)
_ADAPTER: TypeAdapter[_Matrices] = TypeAdapter(Annotated[_Matrices, Field(discriminator="method")])
_FORMS = ["drop", *(form for kind in _KINDS for form, _ in kind.EXAMPLES if "+" not in form)]
_PLACE = re.compile(r"(attn|mlp)\.(0|[1-9]\d{0,4})(\.\w+)?")
_TREATMENT = (
    "a treatment is `drop`, or a recipe of weights or bits that needs no earlier one: its name, such as wanda-50 or "
    "rtn-4bit, or its `method` and parameters"
)


class MixedRecipe(BaseRecipe):
    """A treatment for each listed sublayer or matrix; the others are unchanged.

    Dropped sublayers are removed first. Then one pass from the first layer to the last changes the matrices, each by
    its own recipe.

    Attributes:
        predecessors: state of the earlier sublayers while a layer's inputs are measured: `pruned` (treated as listed,
            without the dropped ones) or `dense`; the same for all treatments.
        treatments: by sublayer, such as `attn.3`, or by matrix, such as `attn.3.q_proj`. A treatment is `drop` for a
            sublayer, or the name or parameters of a recipe of weights or bits; it has no `modules` or `ratios` and
            needs no earlier mask. A matrix is named by the last part of its name, which stands for all matrices of the
            sublayer with that ending, such as those of all experts.
    """

    MAPPING_MEANING: ClassVar[str] = (
        "each sublayer or matrix by its own recipe, or dropped: "
        "`treatments: {attn.3: wanda-50, mlp.5.up_proj: rtn-4bit, …}`"
    )

    method: Literal["mixed"] = "mixed"
    predecessors: Literal["pruned", "dense"] = "pruned"
    treatments: dict[str, Literal["drop"] | Annotated[_Matrices, Field(discriminator="method")]]

    @field_validator("treatments", mode="before", json_schema_input_type=dict[str, str | dict[str, object]])
    @classmethod
    def _names_and_mappings(cls, treatments: object, info: ValidationInfo) -> object:
        """Parse names, complete mappings, and sort the sublayers from the first layer to the last."""
        if not isinstance(treatments, Mapping) or not treatments:
            raise ValueError("must give sublayers their treatments, such as {attn.3: wanda-50, mlp.5: drop}")
        wrong = next((key for key in treatments if not (isinstance(key, str) and _PLACE.fullmatch(key))), None)
        if wrong is not None:
            raise ValueError(
                f"{wrong!r} is not a sublayer; write attn.N or mlp.N with a layer N from 0, or attn.N.MATRIX for one "
                "of its matrices, such as attn.3.q_proj"
            )
        for place in treatments:
            if sublayer_of(place) != place and sublayer_of(place) in treatments:
                raise ValueError(f"{place} is part of {sublayer_of(place)}, which has a treatment too; leave one out")
        predecessors = info.data.get("predecessors", "pruned")
        return {place: _parsed(place, treatments[place], predecessors) for place in sorted(treatments, key=_position)}

    def treatment(self, label: str, matrix: str) -> MatrixRecipe | None:
        """Return the recipe that changes a matrix of the sublayer `label`; None for an unchanged or dropped one."""
        recipes = self.matrix_recipes
        return recipes.get(f"{label}.{part_of(matrix)}") or recipes.get(label)

    def treatments_of(self, label: str) -> tuple[MatrixRecipe, ...]:
        """Return the recipes that change matrices of a sublayer."""
        return tuple(recipe for place, recipe in self.matrix_recipes.items() if sublayer_of(place) == label)

    @property
    def sublayers(self) -> tuple[str, ...]:
        """Return the sublayers that are treated, wholly or partly, from the first layer to the last."""
        return tuple(dict.fromkeys(map(sublayer_of, self.treatments)))

    @property
    def matrix_recipes(self) -> dict[str, MatrixRecipe]:
        """Return the recipes that change matrices, by sublayer or matrix."""
        return {place: recipe for place, recipe in self.treatments.items() if isinstance(recipe, MatrixRecipe)}

    @property
    def drops(self) -> DepthRecipe | None:
        """Return the recipe that drops the sublayers to be dropped, or None."""
        labels = [label for label, treatment in self.treatments.items() if treatment == "drop"]
        if not labels:
            return None
        return DepthRecipe(name=self.name, method="attn+mlp-drop", by="given", count=len(labels), sublayers=(*labels,))

    @property
    def reads(self) -> Reads:
        """Return the most extensive statistics of inputs that a treatment reads."""
        read = {recipe.reads for recipe in self.matrix_recipes.values()}
        return "gram" if "gram" in read else "moments" if "moments" in read else "nothing"

    @property
    def reads_table(self) -> bool:
        """Return whether a treatment reads moments from the dense model's table."""
        return any(recipe.reads_table for recipe in self.matrix_recipes.values())

    @property
    def members(self) -> tuple[BaseRecipe, ...]:
        """Return the recipes that change matrices."""
        return (*self.matrix_recipes.values(),)

    def require_sublayers(self, layers: int) -> None:
        """Raise an InputError for a sublayer that a model with `layers` layers does not have."""
        unknown = next((label for label in self.treatments if _position(label)[0] >= layers), None)
        if unknown is not None:
            raise InputError(f"recipe {self.name}: the model has no {unknown}, only attn.0 to mlp.{layers - 1}")


def sublayer_of(place: str) -> str:
    """Return the sublayer of a place; that of `attn.3.q_proj` and of `attn.3` is `attn.3`."""
    return ".".join(place.split(".")[:2])


def part_of(matrix: str) -> str:
    """Return the last part of a matrix's name without the number of its expert, such as `q_proj`."""
    return matrix.rpartition(".")[2].partition("[")[0]


def _position(place: str) -> tuple[int, str, str]:
    kind, layer, *matrix = place.split(".")
    return int(layer), kind, "".join(matrix)


def _parsed(label: str, given: object, predecessors: str) -> object:
    """Return `drop`, or the recipe that a name or mapping stands for; a ValueError begins with the label."""
    if given == "drop":
        if label != sublayer_of(label):
            raise ValueError(f"{label}: drop applies to a whole sublayer; write {sublayer_of(label)}: drop")
        return given
    if isinstance(given, MatrixRecipe):
        given = {"method": given.method, **given.model_dump(exclude_unset=True)}
    fields = _spelled(label, given)
    if fields.get("predecessors", predecessors) != predecessors:
        raise ValueError(f"{label}: `predecessors` is the same for all treatments; set it next to `treatments`")
    try:
        recipe = _ADAPTER.validate_python(fields | {"predecessors": predecessors})
    except ValidationError as error:
        raise ValueError(f"{label}: {first_problem(error, _Matrices, fields)}") from error
    return _require_alone(label, recipe)


def _spelled(label: str, given: object) -> dict[str, object]:
    """Return the fields of a recipe, named after its method if it has no name."""
    if isinstance(given, Mapping) and "method" in given:
        return {"name": given["method"], **given}
    for kind in _KINDS:
        if isinstance(given, str) and (match := kind.SPELLING.fullmatch(given)):
            return {"name": given, **kind.spelled(match)}
    raise ValueError(f"{label}: {given!r} is not a treatment; {did_you_mean(str(given), _FORMS)}{_TREATMENT}")


def _require_alone(label: str, recipe: _Matrices) -> _Matrices:
    """Return the recipe; ValueError if it has parameters that make no sense for one sublayer."""
    if recipe.calibration is not None:
        raise ValueError(f"{label}: `calibration` is the same for all treatments; set it next to `treatments`")
    if recipe.modules:
        raise ValueError(
            f"{label}: a treatment applies to the whole sublayer; leave `modules` out, and write {label}.MATRIX for a "
            "part"
        )
    if isinstance(recipe, MaskingRecipe) and recipe.ratios != "uniform":
        raise ValueError(f"{label}: `ratios` are shares per layer; give the `sparsity` of this sublayer")
    if isinstance(recipe, ADMM) and recipe.sparsity is None and recipe.keep is None:
        raise ValueError(f"{label}: admm has no earlier mask here; give `sparsity`, or `keep` and `block` (N:M)")
    return recipe
