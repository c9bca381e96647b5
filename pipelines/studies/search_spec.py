"""Settings of a search for the treatment of every sublayer, and the checks that need no model. No torch here."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from prunescope.pipelines.core.frozen_model import MAX_NEW_TOKENS, MAX_TOKENS, FrozenModel
from prunescope.pipelines.core.validation_errors import first_problem
from prunescope.pipelines.corpora.hub_datasets import TEXT_SOURCE
from prunescope.pipelines.recipes import MaskingRecipe, MixedRecipe, parse_recipe

Share = Annotated[float, Field(gt=0, lt=1)]
DROPS = ("drop", "attn-drop", "mlp-drop")
# Sparsities in steps of about a tenth. To miss the best one by half a step costs 0.3 % of the KL, which grows with the
# third power of the sparsity.
_PER_CENT = (4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 33, 36, 40, 44, 48, 53, 58, 64, 70)
MENU = (*(f"{method}-{percent}" for method in ("wanda", "ria", "sparsegpt") for percent in _PER_CENT), "drop")


class SearchSpec(FrozenModel):
    """A search for the allocation that removes a share at the lowest KL(dense ‖ pruned) at the output.

    Attributes:
        remove: shares of the layers' weights (or bytes, or time) to remove; each gets its own allocation.
        menu: treatments of a sublayer, besides keeping it: names of recipes that change matrices, and `drop`, or
            `attn-drop` and `mlp-drop` for one kind only.
        objective: `kl`, the KL at every token of the dense text; or `task:NAME`, the KL at the tokens of the answers to
            a task of the study.
        budget: unit of `remove`: `parameters` of the layers' matrices; `bytes` of a 16-bit checkpoint with packed masks
            and codes; `milliseconds` per decoding step, which only drops save.
        minutes: time after which no further trial begins; pruning does not count.
        source: text to measure on, given like that of a calibration. It is not the calibration text, because masks and
            weights that fit that text too closely do worse on others.
        texts: windows of the text to measure on. Single treatments are measured on the first 16 windows and prompts,
            which alternate; whole allocations on all.
        length: tokens per window.
        prompts: prompts of the shipped sets to measure on, drawn from those that the study does not use.
        new_tokens: tokens of the dense model's continuation of each prompt.
        measurements: trials of the search per share, besides the uniform ones and the first; controls get as many.
        controls: strategies to compare with: `hidden`, the same search by 1 − cos of the final hidden states, starting
            from the method that the KL chose; `random` allocations; `greedy` removal.
        seed: seed of texts, prompts and random allocations.
    """

    remove: tuple[Share, ...] = Field(min_length=1, examples=[[0.2]])
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

    @property
    def settings_hash(self) -> str:
        """Return the hash of everything that the trials depend on, except the model and its calibration."""
        settings = self.model_dump(exclude={"remove", "minutes"})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def require_reachable(search: SearchSpec, tasks: Sequence[str]) -> None:
    """Refuse a search that cannot succeed on any model, in a study with these tasks.

    Raises:
        ValueError: the study lacks the objective's task, a recipe of the menu cannot be the treatment of one sublayer,
            or no allocation of the menu removes enough.
    """
    task = search.objective.partition(":")[2]
    if task and task not in tasks:
        known = ", ".join(tasks) if tasks else "none"
        raise ValueError(f"`search.objective` names task {task!r}, but the study's `tasks` are {known}")
    for name in (name for name in search.menu if name not in DROPS):
        try:
            MixedRecipe.model_validate({"name": "menu", "treatments": {"mlp.0": name}})
        except ValidationError as error:
            reason = first_problem(error)[1].removeprefix("mlp.0: ")
            raise ValueError(f"`search.menu`: {name}: {reason}") from None
    drops = set(DROPS) & set(search.menu)
    if search.budget == "milliseconds" and not drops:
        raise ValueError("`search.budget` is milliseconds, which only drops save; add drop to `search.menu`")
    shares = [_share(name) for name in search.menu if name not in DROPS]
    if search.budget == "parameters" and not drops and max(shares) < max(search.remove):
        raise ValueError(
            f"`search.remove` is {max(search.remove):.1%}, but the menu removes at most {max(shares):.1%} of the "
            "parameters; add treatments that remove more, such as drop, or lower it"
        )


def _share(name: str) -> float:
    """Return the share of a sublayer's weights that a recipe sets to zero."""
    recipe = parse_recipe(name)
    if not isinstance(recipe, MaskingRecipe):
        return 0.0
    if recipe.keep is not None and recipe.block is not None:
        return 1 - recipe.keep / recipe.block
    return recipe.sparsity or 0.0
