"""Studies: models, recipes, prompts, texts and measures, as YAML validated by pydantic. No torch here."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from prunescope.pipelines.core.errors import InputError, masked
from prunescope.pipelines.core.frozen_model import NAME, FrozenModel
from prunescope.pipelines.core.safe_yaml import key_place, read_yaml
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.core.validation_errors import Location, problems_of
from prunescope.pipelines.recipes import NoiseKind, Recipe, WrittenRecipe, parse_recipe
from prunescope.pipelines.recipes.calibration import CalibrationSpec as CalibrationSpec
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec, SpeedSpec, TaskSpec
from prunescope.pipelines.studies.measure_specs import DecodingSpec as DecodingSpec
from prunescope.pipelines.studies.measure_specs import GenerationSpec as GenerationSpec
from prunescope.pipelines.studies.measure_specs import MeasureSpec as MeasureSpec
from prunescope.pipelines.studies.measure_specs import ModelSpec as ModelSpec
from prunescope.pipelines.studies.measure_specs import TextSpec as TextSpec
from prunescope.pipelines.studies.memory_limits import DEVICE, LayerDevice, Size
from prunescope.pipelines.studies.names import name_from
from prunescope.pipelines.studies.prompt_sets import read_template, resolve_prompts
from prunescope.pipelines.studies.prompts import TEMPLATE
from prunescope.pipelines.studies.prompts import Prompt as Prompt
from prunescope.pipelines.studies.search_spec import SearchSpec, require_reachable

FOLDER = Path(__file__).parent
_NAMED_KEY = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)`")


class Study(FrozenModel):
    """A study: which models, recipes, prompts, texts and tasks, and what is measured.

    Attributes:
        name: name of the study and its report; the file's name by default.
        title: heading of the report.
        models: dense models, each given by its source alone or with a name.
        dtype: dtype of weights and activations.
        noise: noise floors added to `recipes`, which compare the dense model with itself: computed in `bfloat16`
            (unless that is the study's dtype), or with another order of sums (`batch`).
        calibration: tokens on which recipes measure activations.
        recipes: ways to prune or quantize, each given by its name (`prunescope recipes` lists them) or its parameters.
        template: template of prompts that have none: `chat` (the model's), `plain` (none) or the text of a Jinja
            template, in YAML the path of its file; by default `chat` for a model with a chat template, else `plain`.
        prompts: probes, and sets of them (`PromptSet`), which `load_study` replaces by their prompts.
        texts: texts that both models score.
        tasks: tasks of lm-evaluation-harness, shipped or your own.
        retrieval: data sets of queries and documents, for embedding models.
        speed: timings of prefill and generation.
        generation: length of the greedy texts.
        decoding: sampled texts in addition to the greedy ones.
        measure: positions, layers and lenses to measure.
        search: search for the treatment of every sublayer.
        device: auto, cpu, cuda or cuda:N.
        memory: bytes of layers per device, such as `{cpu: 8GiB}`; other layers are read from disk when they run. It
            changes no result.
        subset: hash of the names of all models and recipes, if some replaced the study's; it keeps their report apart.
        allow_code_execution: whether programs written by variants for its tasks may run; set by the command line or a
            run's configuration, not in a file; so is `allow_python`, for methods in Python files.
    """

    name: NAME = Field(examples=["my-study"])
    title: str = Field(default="", examples=["My model, pruned three ways"])
    models: tuple[ModelSpec, ...] = Field(min_length=1, examples=[["embedded"]])
    # These come before `recipes`, whose validators read them.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    noise: tuple[NoiseKind, ...] = ("bfloat16", "batch")
    calibration: CalibrationSpec = Field(default=CalibrationSpec(), examples=[{"source": "c4"}])
    recipes: tuple[WrittenRecipe, ...] = Field(min_length=1, examples=[["dense", "wanda-50"]])
    template: TEMPLATE | None = Field(default=None, examples=["chat"])
    prompts: tuple[Prompt, ...] = Field(default=(), examples=[["maths", {"text": "Why is the sky blue?"}]])
    texts: tuple[TextSpec, ...] = Field(default=(), examples=[["wikitext2"]])
    tasks: tuple[TaskSpec, ...] = Field(default=(), examples=[["boolq"]])
    retrieval: tuple[RetrievalSpec, ...] = Field(default=(), examples=[["python-help"]])
    speed: tuple[SpeedSpec, ...] = Field(default=(), examples=[[{"batch": 1, "length": 128}]])
    generation: GenerationSpec = Field(default=GenerationSpec(), examples=[{"new_tokens": 24}])
    decoding: DecodingSpec | None = Field(default=None, examples=[{"samples": 8}])
    measure: MeasureSpec = Field(default=MeasureSpec(), examples=[{"lenses": ["raw"]}])
    search: SearchSpec | None = Field(default=None, examples=[{"remove": [0.2]}])
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    memory: dict[LayerDevice, Size] | None = Field(default=None, examples=[{"cpu": "8GiB"}])
    subset: Annotated[str, Field(exclude=True)] = ""
    allow_code_execution: Annotated[bool, Field(exclude=True)] = False
    allow_python: Annotated[bool, Field(exclude=True)] = False

    @field_validator("recipes", mode="after")
    @classmethod
    def _add_noise_floors(cls, recipes: tuple[Recipe, ...], info: ValidationInfo) -> tuple[Recipe, ...]:
        kinds = [kind for kind in info.data.get("noise", ()) if kind != info.data.get("dtype")]
        if f"noise-{info.data.get('dtype')}" in {recipe.name for recipe in recipes}:
            raise ValueError(f"noise-{info.data['dtype']}: the study itself has this dtype; leave the recipe out")
        present = {recipe.kind for recipe in recipes if recipe.method == "noise"}
        return (*recipes, *(parse_recipe(f"noise-{kind}") for kind in dict.fromkeys(kinds) if kind not in present))

    @field_validator("search", mode="before")
    @classmethod
    def _start_is_one_of_recipes(cls, search: object, info: ValidationInfo) -> object:
        """Replace the name of one of the study's recipes, whose parameters it need not spell, by the recipe."""
        recipes = {recipe.name: recipe for recipe in info.data.get("recipes", ())}
        if isinstance(search, dict) and isinstance(name := search.get("start"), str) and name in recipes:
            return search | {"start": recipes[name]}
        return search

    @field_validator("recipes", mode="after")
    @classmethod
    def _complete_calibrations(cls, recipes: tuple[Recipe, ...], info: ValidationInfo) -> tuple[Recipe, ...]:
        """Complete a recipe's own calibration from the study's, because the recipe's hash must cover all keys."""
        shared: CalibrationSpec | None = info.data.get("calibration")
        if shared is None:  # invalid; pydantic reports it
            return recipes
        return tuple(
            recipe.model_copy(
                update={"calibration": shared.model_copy(update=recipe.calibration.model_dump(exclude_unset=True))}
            )
            if recipe.calibration
            else recipe
            for recipe in recipes
        )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for key, names in (
            ("models", [model.name for model in self.models]),
            ("recipes", [recipe.name for recipe in self.recipes]),
            ("prompts", [prompt.id for prompt in self.prompts]),
            ("texts", [text.id for text in self.texts]),
            ("tasks", [task.name for task in self.tasks]),
            ("retrieval", [spec.name for spec in self.retrieval]),
            ("speed", [speed.what for speed in self.speed]),
        ):
            repeated = next((name for name, count in Counter(names).items() if count > 1), None)
            if repeated is not None:
                raise ValueError(f"`{key}`: {repeated!r} is listed twice")
            # Models and recipes become folders, and some file systems ignore case. Names are ASCII.
            folded: dict[str, str] = {}
            for name in names if key in {"models", "recipes"} else ():
                if (first := folded.setdefault(name.lower(), name)) != name:
                    raise ValueError(f"`{key}`: {first!r} and {name!r} differ in case only; rename one of them")
        for recipe in self.recipes:
            if (recipe.name == "dense") != (recipe.method == "dense"):
                raise ValueError("the name `dense` and the method `dense` belong together; rename the recipe")
        return self

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if not (self.prompts or self.texts or self.tasks or self.retrieval or self.speed):
            raise ValueError("nothing is measured; name `prompts`, `texts`, `tasks`, `retrieval` or `speed`")
        if self.decoding and not self.prompts:
            raise ValueError("`decoding` samples texts of `prompts`; name some, or leave it out")
        if self.measure.trajectories != MeasureSpec().trajectories and self.measure.writes:
            written = [name for name in self.measure.trajectories if name != "teacher_forced"]
            if not self.prompts:
                raise ValueError(f"`measure.trajectories`: {written[0]} needs texts of `prompts`; name some")
            if self.generation.new_tokens < 2:
                raise ValueError(
                    f"`measure.trajectories`: {written[0]} measures after the first token, but "
                    "`generation.new_tokens` is 1; raise it, or leave only `teacher_forced`"
                )
        return self

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if self.search is not None:
            require_reachable(self.search, [task.name for task in self.tasks])
        return self

    @property
    def hash(self) -> str:
        """Return the SHA-256 of all fields but `subset`, what is allowed, and the places of prompts in files."""
        dump = self.model_dump_json(exclude={"prompts": {"__all__": {"origin"}}})
        return hashlib.sha256(dump.encode()).hexdigest()

    @property
    def prompts_hash(self) -> str:
        """Return the SHA-256 of all prompts with their templates, independent of their files."""
        contents = [prompt.contents(self.template) for prompt in self.prompts]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()

    @property
    def settings_hash(self) -> str:
        """Return the SHA-256 of `generation`, `measure` and `dtype`."""
        parts = [self.generation.model_dump(), self.measure.model_dump(), self.dtype]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def decoding_hash(self) -> str:
        """Return the SHA-256 of `decoding`, the number of new tokens and `dtype`."""
        decoding = self.decoding and self.decoding.model_dump()
        return hashlib.sha256(json.dumps([decoding, self.generation.new_tokens, self.dtype]).encode()).hexdigest()

    @property
    def layer_prompts(self) -> tuple[str, ...]:
        """Return the ids of the prompts that are measured layer by layer."""
        limit, counts = self.measure.layer_prompts, Counter[str]()
        chosen = []
        for prompt in self.prompts:
            counts[prompt.kind] += 1
            if limit == "all" or counts[prompt.kind] <= limit:
                chosen.append(prompt.id)
        return tuple(chosen)

    def model(self, name: str) -> ModelSpec:
        """Return the model with that name; InputError if the study has none."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        raise InputError(f"study {self.name} has no model {name!r}; it has {known}")

    def recipe(self, name: str) -> Recipe:
        """Return the study's recipe with that name, or else the recipe that the name describes."""
        for recipe in self.recipes:
            if recipe.name == name:
                return recipe
        return parse_recipe(name)

    def calibrated_for(self, recipe: Recipe) -> "Study":
        """Return the study with the recipe's calibration, if the recipe has one of its own."""
        return self if recipe.calibration is None else self.model_copy(update={"calibration": recipe.calibration})

    def replaced(self, models: list[str], recipes: list[str]) -> "Study":
        """Return the study with other models (`SOURCE` or `NAME=SOURCE`) or recipes; an empty list keeps its own.

        `dense` is added if it is missing, because every other variant is measured against it.
        """
        fields: dict[str, object] = {}
        if models:
            fields["models"] = [_model_from_argument(argument, self) for argument in models]
        if recipes:
            selected = [self.recipe(name) for name in recipes]
            is_compared = any(recipe.method == "dense" for recipe in selected)
            fields["recipes"] = selected if is_compared else [parse_recipe("dense"), *selected]
        other = self._with(fields)
        other_recipes = [recipe for recipe in other.recipes if recipe.method != "dense"]
        own_recipes = [recipe for recipe in self.recipes if recipe.method != "dense"]
        names = [*(model.name for model in other.models), *(recipe.name for recipe in other.recipes)]
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        is_own = (other.models, other_recipes) == (self.models, own_recipes)
        return other.model_copy(update={"subset": "" if is_own else digest[:8]})

    def searching(self, keys: Mapping[str, object]) -> "Study":
        """Return the study with some keys of `search` replaced, or added; InputError for a wrong value."""
        present = self.search.model_dump() if self.search else {}
        if keys.get("start"):
            # `start` cannot be combined with keys that only a search over shares uses.
            present = {key: value for key, value in present.items() if key not in {"remove", "menu", "budget"}}
            if "controls" in present:
                present["controls"] = [control for control in present["controls"] if control != "hidden"]
        return self._with({"search": present | dict(keys)})

    def extended(self, models: Sequence[str]) -> "Study":
        """Return the study with more models (`SOURCE` or `NAME=SOURCE`); its name and its report stay the same.

        Raises:
            InputError: a model has the name of another one in the study.
        """
        if not models:
            return self
        return self._with({"models": [*self.models, *(_model_from_argument(argument, self) for argument in models)]})

    def _with(self, fields: Mapping[str, object]) -> "Study":
        """Return the study with some fields replaced, validated as a whole; InputError for a wrong field."""
        # Recipes are not dumped, because a dump does not record which keys were omitted.
        study = _validated({**self.model_dump(), "recipes": self.recipes, **fields}, f"study {self.name}")
        kept = ("subset", "allow_code_execution", "allow_python")
        return study.model_copy(update={key: getattr(self, key) for key in kept})


def _model_from_argument(argument: str, study: Study) -> dict[str, str]:
    """Parse `NAME=SOURCE`, the name of a model of the study, or a source, whose last part becomes the name."""
    for model in study.models:
        if model.name == argument:
            return model.model_dump()
    if not argument.strip() or argument.endswith("="):
        raise InputError(f"--model {argument!r}: names no model; give a folder, a .gguf file or a hub id")
    name, separator, source = argument.partition("=")
    # A path may hold `=`; a name may hold neither `=` nor a slash.
    if separator and "/" not in name:
        return {"name": name, "source": source}
    slug = name_from(argument)
    if not slug:
        raise InputError(f"--model {argument!r}: no name can be made from it; write NAME={argument}")
    return {"name": slug, "source": argument}


def study_names() -> list[str]:
    """Return the names of the studies in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_study(name_or_path: str) -> Study:
    """Read and validate a shipped study, by its name, or a YAML file (.yaml or .yml), by its path.

    Raises:
        InputError: the study does not exist, or its file is not valid; names file and key.
    """
    if "://" in name_or_path or masked(name_or_path) != name_or_path:
        raise InputError(f"study {name_or_path!r}: is an address; give a file on this machine")
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        if name_or_path not in study_names():
            known = study_names()
            hint = did_you_mean(name_or_path, [*known, *(file.name for file in Path().glob("*.y*ml"))])
            raise InputError(
                f"no study {name_or_path!r}; {hint}shipped are {', '.join(known)}, or give the path of a .yaml file"
            )
        path = FOLDER / f"{name_or_path}.yaml"
    return study_of(read_yaml(path), path)


def study_of(fields: object, path: Path) -> Study:
    """Validate the content of a study's file.

    Args:
        fields: the content.
        path: the file, whose name is used if the study has no `name`. Messages give its line numbers.

    Raises:
        InputError: as in `load_study`.
    """
    if not isinstance(fields, dict):
        raise InputError(f"{path}: a study is a mapping of keys; for example `models: [embedded]`")
    fields = dict[str, object]({"name": path.stem} | fields)
    if "subset" in fields:
        raise InputError(f"{key_place(path, ['subset'])}: is not a key here; leave it out")
    for key in ("allow_code_execution", "allow_python"):
        if key in fields:
            option = key.replace("_", "-")
            raise InputError(f"{key_place(path, [key])} is not a key of a study; pass --{option} to `run`")
    readers: dict[str, Callable[[object], object]] = {
        "prompts": lambda value: resolve_prompts(value, str(path), is_shipped=path.parent == FOLDER),
        "template": lambda value: read_template(value, str(path), ["template"]),
    }
    refused = []
    for key, read in readers.items():
        try:
            if key in fields:
                fields[key] = read(fields[key])
        except InputError as error:
            refused.append(str(error))
            del fields[key]
    return _validated(fields, path, refused)


def _validated(fields: dict[str, object], where: Path | str, refused: Sequence[str] = ()) -> Study:
    """Validate a study's keys; `where` is its file or a description, `refused` has the errors of keys left out."""
    problems = [*refused]
    try:
        study = Study.model_validate(fields)
    except ValidationError as error:
        for location, message in problems_of(error, Study, fields):
            # Checks over several keys put the invalid key in backticks in the message.
            key = _NAMED_KEY.search(message)
            keys = [*location, *(key[1].split(".") if key else [])]
            if location or not refused:  # a check of the whole study may miss a key that was left out
                problems.append(f"{key_place(where, keys, _with_recipe_name(location, fields))}: {message}")
    if problems:
        raise InputError("\n".join(problems))
    return study


def _with_recipe_name(location: Location, fields: Mapping[str, object]) -> Sequence[str | int]:
    """Return a location with a recipe's name in place of its index, and without the index if the recipe is a name."""
    recipes = fields.get("recipes")
    if location[:1] != ("recipes",) or len(location) < 2 or not isinstance(recipes, list | tuple):
        return location
    recipe = recipes[int(location[1])]
    if isinstance(recipe, str):
        return "recipes", *location[2:]
    return "recipes", recipe.get("name", location[1]) if isinstance(recipe, dict) else location[1], *location[2:]
