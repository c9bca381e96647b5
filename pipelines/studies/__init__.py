"""Studies: models, recipes, prompts, texts and measures, as YAML validated by pydantic. No torch here."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from prunescope.pipelines.core.errors import InputError, masked
from prunescope.pipelines.core.frozen_model import (
    MAX_NEW_TOKENS,
    MAX_TOKENS,
    MAX_TOTAL_TOKENS,
    NAME,
    SOURCE,
    FrozenModel,
)
from prunescope.pipelines.core.safe_yaml import read_yaml
from prunescope.pipelines.core.validation_errors import first_problem
from prunescope.pipelines.models.embedded import PREFIX
from prunescope.pipelines.recipes import NoiseKind, Recipe, parse_recipe
from prunescope.pipelines.recipes.calibration import CalibrationSpec as CalibrationSpec
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec, SpeedSpec, TaskSpec
from prunescope.pipelines.studies.memory_limits import DEVICE, LayerDevice, Size
from prunescope.pipelines.studies.prompt_sets import read_template, resolve_prompts
from prunescope.pipelines.studies.prompts import Prompt as Prompt
from prunescope.pipelines.studies.prompts import require_template
from prunescope.pipelines.studies.search_spec import SearchSpec
from prunescope.pipelines.studies.search_targets import require_reachable

FOLDER = Path(__file__).parent


class ModelSpec(FrozenModel):
    """A dense model: `source` is `embedded:NAME`, a local folder, a GGUF file or a hub id (`org/name[@revision]`)."""

    name: NAME
    source: SOURCE


class TextSpec(FrozenModel):
    """A text that both models score: windows of `context` tokens, one every `stride` tokens; nothing is generated.

    The last `stride` tokens of every window are scored, so each token once and with at least `context` − `stride`
    tokens before it. The default is half a window, as in llama.cpp. With `stride` equal to `context` windows do not
    overlap, and the first token of each is not scored.

    Attributes:
        id: name in every table.
        source: `wikitext2` (the WikiText-2 test text), `embedded` (Python's own help topics), or the path of a text,
            JSON or JSONL file.
        context: tokens of a window, the model's own first token included.
        stride: tokens from one window to the next; None is half the context.
        max_tokens: maximum number of scored tokens, in whole windows from the beginning.
    """

    id: NAME
    source: SOURCE = "wikitext2"
    context: int = Field(default=512, ge=2, le=MAX_TOKENS)
    stride: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_tokens: int = Field(default=4096, ge=1, le=MAX_TOTAL_TOKENS)

    @model_validator(mode="after")
    def _windows_follow_each_other(self) -> Self:
        if self.step > self.context:
            raise ValueError(f"`stride` {self.step} is over `context` {self.context}: it would leave tokens out")
        if self.max_tokens < self.scored:
            raise ValueError(f"`max_tokens` {self.max_tokens} is less than one window scores ({self.scored}); raise it")
        return self

    @property
    def step(self) -> int:
        """Return the tokens from one window to the next."""
        return self.context // 2 if self.stride is None else self.stride

    @property
    def scored(self) -> int:
        """Return the number of tokens scored in each window."""
        return min(self.step, self.context - 1)

    @property
    def what(self) -> str:
        """Return the description of its source for messages."""
        return f"text {self.id!r}, source"


class GenerationSpec(FrozenModel):
    """Length of the greedy texts.

    Steps pair up between variants: every variant has as many as the dense model.

    Attributes:
        until: `end`: the steps of a prompt end with the dense model's end-of-text token; `length`: they continue
            behind it, which no mean or median counts.
        new_tokens: maximum number of tokens.
    """

    until: Literal["end", "length"] = "end"
    new_tokens: int = Field(default=24, ge=1, le=MAX_NEW_TOKENS)


class DecodingSpec(FrozenModel):
    """Sampled texts beside the greedy ones; the dense and the pruned model draw with the same Gumbel noise.

    A text ends with its end-of-text token, or after `generation.new_tokens`.

    Attributes:
        temperature: of the softmax.
        top_p: tokens are drawn from the smallest set of most likely ones with at least this probability; 1 is all.
        samples: texts of each prompt.
        seed: of the noise.
    """

    temperature: float = Field(default=0.7, gt=0, le=100, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1)
    samples: int = Field(default=8, ge=1, le=1024)
    seed: int = Field(default=0, ge=0, lt=2**63)


class MeasureSpec(FrozenModel):
    """Measurement settings.

    Attributes:
        positions: `generated`: the last prompt token and every generated one; `every`: the prompt's tokens too.
        cache: whether tokens pass one by one through key-value caches, else all at once; the tables agree.
        keep_states: whether to store the residual stream and its shifts in `hidden_states`, 2 bytes per number.
        layer_prompts: number of prompts of each kind, in order, that are measured layer by layer, or `all`; the others
            are measured at the output only.
    """

    positions: Literal["generated", "every"] = "generated"
    temperatures: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = (1.0,)
    lenses: tuple[Literal["raw", "normed"], ...] = ("raw", "normed")
    scopes: tuple[Literal["local", "isolated", "propagated"], ...] = ("local", "propagated")
    trajectories: tuple[Literal["teacher_forced", "free_running"], ...] = ("teacher_forced", "free_running")
    top_k: int = Field(default=10, ge=1, le=100)
    cache: bool = False
    keep_states: bool = False
    layer_prompts: Annotated[int, Field(ge=1)] | Literal["all"] = 4

    @field_validator("temperatures")
    @classmethod
    def _has_a_softmax(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if any(t <= 0 for t in temperatures):
            raise ValueError("a temperature must be above 0: at 0 decoding is greedy and there is no softmax")
        return temperatures

    @field_validator("layer_prompts", mode="before")
    @classmethod
    def _number_or_all(cls, limit: object) -> object:
        if limit != "all" and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ValueError("give a number of prompts of each kind, 1 or more, or `all`")
        return limit

    @model_validator(mode="after")
    def _values_are_unique(self) -> Self:
        for key in ("temperatures", "lenses", "scopes", "trajectories"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"`{key}` needs at least one value and no repetition")
        return self


class Study(FrozenModel):
    """A study's YAML file.

    `noise` adds noise floors to `recipes`: the dense model against itself in bfloat16 (unless the study's dtype is
    bfloat16) and with another order of sums. `search` looks for the treatment of every sublayer. `template` is that of
    prompts without one of their own: `chat` (the model's), `plain` (none) or the text of a Jinja template; None is
    `chat` for a model with a chat template, else `plain`. In YAML a Jinja template is the path of its file, and
    `prompts` may hold sets (`PromptSet`), which `load_study` replaces by their prompts.
    """

    name: NAME
    title: str = ""
    models: tuple[ModelSpec, ...] = Field(min_length=1)
    # These come before `recipes`, whose validators read them.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    noise: tuple[NoiseKind, ...] = ("bfloat16", "batch")
    calibration: CalibrationSpec = CalibrationSpec()
    recipes: tuple[Recipe, ...] = Field(min_length=1)
    template: str | None = None
    prompts: tuple[Prompt, ...] = ()
    texts: tuple[TextSpec, ...] = ()
    tasks: tuple[TaskSpec, ...] = ()
    retrieval: tuple[RetrievalSpec, ...] = ()
    speed: tuple[SpeedSpec, ...] = ()
    generation: GenerationSpec = GenerationSpec()
    decoding: DecodingSpec | None = None
    measure: MeasureSpec = MeasureSpec()
    search: SearchSpec | None = None
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    # Bytes of layers on each device; other layers are read from disk when they run. It changes no result.
    memory: dict[LayerDevice, Size] | None = None
    # Hash of the models or recipes that replaced the study's, so that their report does not replace the study's.
    subset: Annotated[str, Field(exclude=True)] = ""
    # Whether programs written by variants for its tasks may run; set by the command line only.
    allow_code_execution: Annotated[bool, Field(exclude=True)] = False

    _template = field_validator("template")(require_template)

    @field_validator("recipes", mode="before")
    @classmethod
    def _names_are_recipes(cls, recipes: object) -> object:
        if not isinstance(recipes, (list, tuple)):
            return recipes
        try:
            return [parse_recipe(recipe) if isinstance(recipe, str) else recipe for recipe in recipes]
        except InputError as error:  # pydantic adds the key to a ValueError
            raise ValueError(str(error)) from error

    @field_validator("recipes", mode="after")
    @classmethod
    def _add_noise_floors(cls, recipes: tuple[Recipe, ...], info: ValidationInfo) -> tuple[Recipe, ...]:
        kinds = [kind for kind in info.data.get("noise", ()) if kind != info.data.get("dtype")]
        if f"noise-{info.data.get('dtype')}" in {recipe.name for recipe in recipes}:
            raise ValueError(f"noise-{info.data['dtype']}: this is the study's own dtype; leave it out")
        present = {recipe.kind for recipe in recipes if recipe.method == "noise"}
        return (*recipes, *(parse_recipe(f"noise-{kind}") for kind in dict.fromkeys(kinds) if kind not in present))

    @field_validator("recipes", mode="after")
    @classmethod
    def _complete_calibrations(cls, recipes: tuple[Recipe, ...], info: ValidationInfo) -> tuple[Recipe, ...]:
        """Fill keys that a recipe's own calibration leaves out by the study's, so that the recipe's hash covers all."""
        shared: CalibrationSpec | None = info.data.get("calibration")
        if shared is None:  # invalid, and reported as such
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
                raise ValueError("the name `dense` belongs to the method dense")
        return self

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if not (self.prompts or self.texts or self.tasks or self.retrieval or self.speed):
            raise ValueError("nothing is measured; name `prompts`, `texts`, `tasks`, `retrieval` or `speed`")
        if self.decoding and not self.prompts:
            raise ValueError("`decoding` samples texts of `prompts`; name some, or leave it out")
        return self

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if self.search is not None:
            require_reachable(self.search, [task.name for task in self.tasks])
        return self

    @property
    def prompts_hash(self) -> str:
        """Return the SHA-256 of all prompts with their templates, wherever they come from."""
        contents = [prompt.contents(self.template) for prompt in self.prompts]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()

    @property
    def settings_hash(self) -> str:
        """Return the SHA-256 of `generation`, `measure` and `dtype`."""
        parts = [self.generation.model_dump(), self.measure.model_dump(), self.dtype]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def decoding_hash(self) -> str:
        """Return the SHA-256 of `decoding`, of the number of new tokens and of `dtype`."""
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
        """Return the model of that name.

        Raises:
            InputError: the study has none.
        """
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        raise InputError(f"study {self.name} has no model {name!r}; it has {known}")

    def recipe(self, name: str) -> Recipe:
        """Return the study's recipe of that name, else the recipe that the name spells."""
        for recipe in self.recipes:
            if recipe.name == name:
                return recipe
        return parse_recipe(name)

    def calibrated_for(self, recipe: Recipe) -> "Study":
        """Return the study with a recipe's own calibration, if the recipe has one."""
        return self if recipe.calibration is None else self.model_copy(update={"calibration": recipe.calibration})

    def replaced(self, models: list[str], recipes: list[str]) -> "Study":
        """Return the study with other models (`SOURCE` or `NAME=SOURCE`) or recipes; an empty list keeps its own.

        `dense` is added where it is missing, because every other variant is measured against it.
        """
        fields = self.model_dump()
        if models:
            fields["models"] = [_model_from_argument(argument, self) for argument in models]
        if recipes:
            selected = [self.recipe(name) for name in recipes]
            if all(recipe.method != "dense" for recipe in selected):
                selected.insert(0, parse_recipe("dense"))
            fields["recipes"] = selected  # not dumped: a dump does not record which keys were left out
        other = _validated(fields, f"study {self.name}")
        other_recipes = [recipe for recipe in other.recipes if recipe.method != "dense"]
        own_recipes = [recipe for recipe in self.recipes if recipe.method != "dense"]
        if (other.models, other_recipes) == (self.models, own_recipes):
            return other
        names = [*(model.name for model in other.models), *(recipe.name for recipe in other.recipes)]
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        return other.model_copy(update={"subset": digest[:8]})

    def searching(self, keys: Mapping[str, object]) -> "Study":
        """Return the study with some keys of `search` replaced, or with a `search` of these keys where it has none.

        Raises:
            InputError: a value is wrong; the message names the key.
        """
        fields = self.model_dump() | {"recipes": self.recipes}  # a dump does not record which keys were left out
        fields["search"] = {**(fields["search"] or {}), **keys}
        return _validated(fields, f"study {self.name}").model_copy(
            update={"subset": self.subset, "allow_code_execution": self.allow_code_execution}
        )

    def extended(self, models: Sequence[str]) -> "Study":
        """Return the study with more models (`SOURCE` or `NAME=SOURCE`); its name, and so its report, stays the same.

        Raises:
            InputError: one of them has the name of another model of the study.
        """
        if not models:
            return self
        fields = self.model_dump()
        fields["models"] = [*fields["models"], *(_model_from_argument(argument, self) for argument in models)]
        return _validated(fields, f"study {self.name}").model_copy(update={"subset": self.subset})


def _model_from_argument(argument: str, study: Study) -> dict[str, str]:
    """Parse `NAME=SOURCE`, the name of a model of the study, or a source, whose last part becomes the name."""
    for model in study.models:
        if model.name == argument:
            return model.model_dump()
    if not argument.strip() or argument.endswith("="):
        raise InputError(f"--model {argument!r}: names no model; give a folder, a .gguf file or a hub id")
    name, separator, source = argument.partition("=")
    # A path may hold `=`; a name may not, nor a slash.
    if separator and "/" not in name:
        return {"name": name, "source": source}
    slug = model_name(argument)
    if not slug:
        raise InputError(f"--model {argument!r}: no name can be made from it; write NAME={argument}")
    return {"name": slug, "source": argument}


def model_name(source: str) -> str:
    """Return a model's name from the last part of its source; empty where that has no letter and no digit."""
    stem = Path(source.removeprefix(PREFIX).rstrip("/").split("@")[0]).name.removesuffix(".gguf")
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:100]


def study_names() -> list[str]:
    """Return the names of the studies in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_study(name_or_path: str) -> Study:
    """Read and validate a study.

    Args:
        name_or_path: a shipped study's name, or the path of a YAML file (it ends in .yaml or .yml).

    Raises:
        InputError: there is no such study, or the file is not a valid one; the message names file and key.
    """
    if "://" in name_or_path or masked(name_or_path) != name_or_path:
        raise InputError(f"study {name_or_path!r}: an address; give a file on this machine")
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        if name_or_path not in study_names():
            known = study_names()
            like = get_close_matches(name_or_path.lower(), known, n=1)
            hint = f"did you mean {like[0]}? " if like else ""
            raise InputError(
                f"no study {name_or_path!r}; {hint}shipped are {', '.join(known)}, or give the path of a .yaml file"
            )
        path = FOLDER / f"{name_or_path}.yaml"
    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise InputError(f"{path}: a study is a mapping of keys (name, models, recipes, prompts, ...)")
    fields.setdefault("name", path.stem)
    if "allow_code_execution" in fields:
        raise InputError(
            f"{path}: `allow_code_execution` is not a key of a study; pass --allow-code-execution to `run`"
        )
    if "prompts" in fields:
        fields["prompts"] = resolve_prompts(fields["prompts"], str(path), is_shipped=path.parent == FOLDER)
    if "template" in fields:
        fields["template"] = read_template(fields["template"], f"{path}: `template`")
    return _validated(fields, str(path))


def _validated(fields: dict[str, object], where: str) -> Study:
    try:
        return Study.model_validate(fields)
    except ValidationError as error:
        location, message = first_problem(error, Study)
        recipes = fields.get("recipes")
        if location[:1] == ("recipes",) and len(location) > 2 and isinstance(recipes, list):
            recipe = recipes[int(location[1])]
            name = recipe.get("name", location[1]) if isinstance(recipe, dict) else recipe
            location = ("recipes", name, *location[3:])
        key = ".".join(str(part) for part in location) or "study"
        raise InputError(f"{where}: `{key}`: {message}") from error
