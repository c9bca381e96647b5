"""Settings of a search for the treatment of every sublayer, and the checks that need no model. No torch here."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from prunescope.pipelines.core.frozen_model import MAX_NEW_TOKENS, MAX_TOKENS, FrozenModel
from prunescope.pipelines.core.validation_errors import problems_of
from prunescope.pipelines.corpora.hub_datasets import TEXT_SOURCE
from prunescope.pipelines.recipes import (
    DepthRecipe,
    MatrixRecipe,
    MixedRecipe,
    Recipe,
    WrittenRecipe,
    parse_recipe,
    runs_python,
    steps,
)

Share = Annotated[float, Field(gt=0, lt=1)]
DROPS = ("drop", "attn-drop", "mlp-drop")
# Sparsities in steps of about a tenth. Missing the best one by half a step costs 0.3 % of the KL, which grows with the
# third power of the sparsity.
_PER_CENT = (4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 33, 36, 40, 44, 48, 53, 58, 64, 70)
MENU = (*(f"{method}-{percent}" for method in ("wanda", "ria", "sparsegpt") for percent in _PER_CENT), "drop")


class SearchSpec(FrozenModel):
    """A search for the allocation that removes a share at the lowest KL(dense ‖ pruned) at the output.

    With `start` it goes the other way: it makes sublayers of a pruned model dense again, as far as `put_back` allows.
    `remove`, `menu` and `budget` are then refused.

    Attributes:
        remove: shares of the layers' weights (or bytes, or time) to remove; each gets its own allocation.
        start: recipe whose sublayers may be made dense again: one of weights or bits, drops, a mixture, or drops and
            then one of weights or bits; a name from the study's `recipes`, or written as there.
        put_back: the most to put back, as exactly one of `sublayers`, a number; `parameters`, the share of the layers'
            weights that come back; `bytes`, the share of their bytes in 16 bits by which the stored model grows.
        menu: treatments of a sublayer, besides keeping it: names of recipes that change matrices, and `drop`, or
            `attn-drop` and `mlp-drop` for one kind only.
        objective: `kl`, the KL at every token of the dense text; or `task:NAME`, the KL at the tokens of the answers to
            a task of the study.
        budget: unit of `remove`: `parameters` of the layers' matrices; `bytes` of a 16-bit checkpoint with packed masks
            and codes; `milliseconds` per decoding step, which only drops save.
        minutes: time after which no further trial begins; pruning does not count.
        source: text of the windows to measure on, like a calibration's. It is not the calibration text, because masks
            and weights that fit that text too closely do worse on others.
        texts: windows of the text to measure on. The first 16 windows and prompts, alternating, measure single
            treatments; all measure whole allocations. With `start` the last half of all is held out and measures
            what the choice brings back.
        length: tokens per window.
        prompts: prompts of the shipped sets to measure on, drawn from those that the study does not use.
        new_tokens: tokens of the dense model's continuation of each prompt.
        measurements: trials of the search per share, besides the uniform ones and the first, or besides the start and
            every attempt to put a sublayer back; the controls have as many.
        controls: strategies to compare with: `hidden`, the same search by 1 − cos of the final hidden states, starting
            from the method that the KL chose (not with `start`); `random` allocations; `greedy` removal by the smallest
            effects alone, which with `start` puts back the sublayers with the largest.
        seed: seed of texts, prompts and random allocations.
    """

    remove: tuple[Share, ...] = Field(default=(), examples=[[0.2]])
    # Searches without them keep their hashes.
    start: WrittenRecipe | None = Field(default=None, exclude_if=lambda own: own is None, examples=["wanda-50"])
    put_back: dict[Literal["sublayers", "parameters", "bytes"], Annotated[float, Field(gt=0)]] | None = Field(
        default=None, exclude_if=lambda own: own is None, examples=[{"sublayers": 4}]
    )
    menu: tuple[str, ...] = Field(default=MENU, min_length=1, examples=[["wanda-50", "drop"]])
    objective: Annotated[str, Field(pattern=r"^(kl|task:[A-Za-z0-9_.-]+)$")] = "kl"
    budget: Literal["parameters", "bytes", "milliseconds"] = "parameters"
    minutes: float = Field(default=20, gt=0, le=100_000)
    source: TEXT_SOURCE = "c4"
    texts: int = Field(default=32, ge=2, le=1_000)
    length: int = Field(default=64, ge=16, le=MAX_TOKENS)
    prompts: int = Field(default=32, ge=0, le=300)
    new_tokens: int = Field(default=24, ge=1, le=MAX_NEW_TOKENS)
    measurements: int = Field(default=8, ge=1, le=1_000)
    controls: tuple[Literal["hidden", "random", "greedy"], ...] = ("hidden", "random", "greedy")
    seed: int = Field(default=0, ge=0, lt=2**31)

    @field_validator("remove", "menu", "controls")
    @classmethod
    def _are_unique(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) != len(values):
            raise ValueError("a value is listed twice")
        return values

    @field_validator("start")
    @classmethod
    def _can_be_put_back(cls, start: Recipe | None) -> Recipe | None:
        if start is None:
            return None
        *before, last = steps(start)
        are_drops = all(isinstance(step, DepthRecipe) for step in before)
        if start.calibration or not (are_drops and isinstance(last, DepthRecipe | MatrixRecipe | MixedRecipe)):
            raise ValueError(
                f"{start.name} has no treatment per sublayer; give a recipe of weights or bits, drops, a mixture, or "
                "drops and then one of weights or bits, with the study's `calibration`"
            )
        return start

    @model_validator(mode="after")
    def _has_one_goal(self) -> Self:
        if (self.start is None) != (self.put_back is None):
            raise ValueError("`start` and `put_back` belong together: `start: wanda-50` and `put_back: {sublayers: 4}`")
        if bool(self.remove) == (self.start is not None):
            raise ValueError("needs either `remove`, such as [0.2], or `start` and `put_back`")
        if self.put_back is not None and len(self.put_back) != 1:
            raise ValueError("`put_back` needs exactly one of `sublayers`, `parameters` and `bytes`: {sublayers: 4}")
        if self.put_back is not None and (number := self.put_back.get("sublayers", 0)) % 1:
            raise ValueError(f"`put_back.sublayers` must be a whole number, such as 4; found {number:g}")
        return self

    @model_validator(mode="after")
    def _has_a_use_for_every_key(self) -> Self:
        if self.start is None:
            return self
        # A dumped study contains every key, so only values other than the default count as given.
        given = {key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default}
        unused = [f"`{key}`" for key in ("menu", "budget") if key in given]
        unused += ["`hidden` in `controls`"] * ("controls" in given and "hidden" in self.controls)
        if unused:
            raise ValueError(f"{unused[0]} has no use with `start`; leave it out")
        return self

    @property
    def targets(self) -> tuple[float, ...]:
        """Return the shares to remove, or the amount that may be put back."""
        return self.remove if self.put_back is None else (*self.put_back.values(),)

    @property
    def unit(self) -> str:
        """Return the unit of the targets."""
        return next(iter(self.put_back or [self.budget]))

    @property
    def recipes(self) -> list[Recipe]:
        """Return the recipes of the menu and the start."""
        menu = [parse_recipe(name) for name in self.menu if name not in DROPS]
        return menu if self.start is None else [*menu, self.start]

    @property
    def settings_hash(self) -> str:
        """Return the hash of everything that the trials depend on, except the model and its calibration."""
        settings = self.model_dump(exclude={"remove", "minutes"})
        # The menu has names of files, whose text counts. Searches without them keep their hashes.
        if texts := [recipe.hash for recipe in self.recipes if runs_python(recipe)]:
            settings["files"] = texts
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def require_reachable(search: SearchSpec, tasks: Sequence[str]) -> None:
    """Refuse a search that cannot succeed on any model, in a study with these tasks.

    Raises:
        ValueError: the study lacks the objective's task, a recipe of the menu cannot be the treatment of one sublayer,
            or nothing on the menu saves time.
    """
    task = search.objective.partition(":")[2]
    if task and task not in tasks:
        own = ", ".join(tasks) if tasks else "none"
        raise ValueError(f"`search.objective` names task {task!r}, but the study's `tasks` are {own}")
    if search.start is not None:
        return
    for name in (name for name in search.menu if name not in DROPS):
        try:
            MixedRecipe.model_validate({"name": "menu", "treatments": {"mlp.0": name}})
        except ValidationError as error:
            reason = problems_of(error)[0][1].removeprefix("mlp.0: ")
            raise ValueError(f"`search.menu`: {name}: {reason}") from None
    if search.budget == "milliseconds" and not set(DROPS) & set(search.menu):
        raise ValueError("`search.budget` is milliseconds, which only drops save; add drop to `search.menu`")
