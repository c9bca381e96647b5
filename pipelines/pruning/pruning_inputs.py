"""Inputs of a recipe besides the model: statistics of the dense model, calibration tokens and checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.calibration.statistics import tokens_hash
from prunescope.pipelines.recipes.base import BaseRecipe, Statistic


@dataclass(frozen=True)
class Statistics:
    """Inputs that recipes share.

    Attributes:
        activation_stats: rows of that table, like `block_influence`. Recipes with dense predecessors that read only
            moments use them instead of running the model.
        tokens: calibration tokens, which pass the layers in `dtype`; None is the model's own.
        unfinished: where to store finished layers until the variant is complete; None keeps them in memory.
        order: labels and scores from an earlier run of the same iterative or greedy drop with any count.
        cache: folder for downloaded or converted files, for recipes that read a checkpoint.
        loaded: checkpoints by source that are in memory already, each with its tokenizer.
    """

    activation_stats: pl.DataFrame | None = None
    block_influence: pl.DataFrame | None = None
    tokens: Int[Tensor, "sequences length"] | None = None
    dtype: torch.dtype | None = None
    unfinished: "Unfinished | None" = None
    order: Sequence[tuple[str, float | None]] = ()
    cache: Path | None = None
    loaded: Mapping[str, tuple[nn.Module, Any]] = field(default_factory=dict)

    def require_tokens(self, recipe: BaseRecipe) -> Int[Tensor, "sequences length"]:
        """Return the calibration tokens; InputError if there are none."""
        if self.tokens is None or not self.tokens.numel():
            raise InputError(f"recipe {recipe.name} needs calibration tokens")
        return self.tokens


@dataclass(frozen=True)
class Unfinished:
    """The folder of a run's finished layers, from which it resumes until `discard` removes it; the weights' hash."""

    folder: Path
    weight_hash: str


def table_for(recipe: BaseRecipe, statistics: Statistics, name: Statistic) -> pl.DataFrame | None:
    """Return a table if a recipe needs it and it is there, else None; InputError if it was measured on other tokens."""
    rows: pl.DataFrame | None = getattr(statistics, name) if name in recipe.needs else None
    tokens = statistics.tokens
    if rows is not None and tokens is not None and set(rows["calibration_hash"]) != {tokens_hash(tokens)}:
        raise InputError(f"recipe {recipe.name}: {name} was measured on other tokens; materialise it again")
    return rows


def known_moments(recipe: BaseRecipe, statistics: Statistics) -> dict[str, ActivationMoments] | None:
    """Return the inputs of all matrices from `activation_stats`, or None without it; errors as in `table_for`."""
    rows = table_for(recipe, statistics, "activation_stats")
    if rows is None:
        return None
    return {
        row["module"]: ActivationMoments.from_table(
            row["tokens"], torch.tensor(row["mean"]), torch.tensor(row["second_moment"])
        )
        for row in rows.iter_rows(named=True)
    }
