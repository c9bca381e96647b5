"""Checks of a search that need no model: its objective's task, and the most that its menu can remove."""

from collections.abc import Sequence

from pydantic import ValidationError

from prunescope.pipelines.core.validation_errors import first_problem
from prunescope.pipelines.recipes import MaskingRecipe, MixedRecipe, parse_recipe
from prunescope.pipelines.studies.search_spec import DROPS, SearchSpec


def require_reachable(search: SearchSpec, tasks: Sequence[str]) -> None:
    """Refuse a search that cannot be carried out on any model.

    Args:
        search: the settings.
        tasks: names of the study's tasks.

    Raises:
        ValueError: the objective's task is none of the study's, a recipe of the menu cannot be the treatment of one
            sublayer, or such a menu never removes so much.
    """
    task = search.objective.partition(":")[2]
    if task and task not in tasks:
        own = ", ".join(tasks) if tasks else "none"
        raise ValueError(f"`search.objective` is of task {task!r}, but the study's `tasks` are {own}")
    for name in search.menu:
        _require_treatment(name)
    drops = set(DROPS) & set(search.menu)
    if search.budget == "milliseconds" and not drops:
        raise ValueError("`search.budget` is milliseconds, which only drops save; add drop to `search.menu`")
    shares = [_share(name) for name in search.menu if name not in DROPS]
    if search.budget == "parameters" and not drops and max(shares) < max(search.remove):
        raise ValueError(
            f"`search.remove` is {max(search.remove):.1%}, but the menu removes at most {max(shares):.1%} of the "
            "parameters; add treatments that remove more, such as drop, or lower it"
        )


def _require_treatment(name: str) -> None:
    """Refuse a recipe that a mixed recipe refuses for one sublayer."""
    if name in DROPS:
        return
    try:
        MixedRecipe.model_validate({"name": "menu", "treatments": {"mlp.0": name}})
    except ValidationError as error:
        reason = first_problem(error)[1].removeprefix("mlp.0: ")
        raise ValueError(f"`search.menu`: {name}: {reason}") from None


def _share(name: str) -> float:
    """Return the share of a sublayer's weights that a recipe sets to zero."""
    recipe = parse_recipe(name)
    if not isinstance(recipe, MaskingRecipe):
        return 0.0
    if recipe.keep is not None and recipe.block is not None:
        return 1 - recipe.keep / recipe.block
    return recipe.sparsity or 0.0
