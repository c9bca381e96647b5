"""What recipes are given beside the model: tables of the dense one, tokens, and where unfinished work is kept.

What they make of it is `apply.py`'s and `methods`'s.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core import code_versions
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.calibration.statistics import tokens_hash
from prunescope.pipelines.pruning.layer_checkpoints import LayerFiles
from prunescope.pipelines.pruning.layerwise import PruningJob
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import MatrixRecipe


@dataclass(frozen=True)
class Statistics:
    """What was measured on the dense model, the tokens for more of it, and where unfinished work is kept.

    Attributes:
        activation_stats: rows of that table, for recipes that need them; they also save recipes that read only
            moments, with dense predecessors, from running the model.
        block_influence: rows of that table, for recipes that need them.
        tokens: calibration tokens, for recipes that are calibrated.
        dtype: type in which the tokens pass the layers; None is the model's own.
        unfinished: where finished layers are kept until the variant is; None keeps them in memory.
        order: how an earlier run of the same iterative or greedy drop began, whatever its count: labels and scores.
        cache: folder for what is fetched or converted, for recipes that read a checkpoint.
    """

    activation_stats: pl.DataFrame | None = None
    block_influence: pl.DataFrame | None = None
    tokens: Int[Tensor, "sequences length"] | None = None
    dtype: torch.dtype | None = None
    unfinished: "Unfinished | None" = None
    order: Sequence[tuple[str, float | None]] = ()
    cache: Path | None = None


@dataclass(frozen=True)
class Unfinished:
    """A folder for the layers that are finished, so that a killed run goes on at the one that it had reached.

    Attributes:
        folder: of the run; `layer_files.discard` removes it when the variant is saved.
        weight_hash: of the dense model.
    """

    folder: Path
    weight_hash: str


def known_moments(recipe: MatrixRecipe, statistics: Statistics) -> dict[str, ActivationMoments] | None:
    """Inputs as `activation_stats` has them; None without that table.

    Raises:
        InputError: they were measured on other tokens.
    """
    rows, tokens = statistics.activation_stats, statistics.tokens
    if rows is None:
        return None
    if tokens is not None and set(rows["calibration_hash"]) != {tokens_hash(tokens)}:
        raise InputError(f"recipe {recipe.name}: activation_stats is of other tokens; materialise it again")
    return {
        row["module"]: ActivationMoments.measured_before(
            row["tokens"], torch.tensor(row["mean"]), torch.tensor(row["second_moment"])
        )
        for row in rows.iter_rows(named=True)
    }


def layer_files(
    decoder: Decoder, job: PruningJob, statistics: Statistics, unfinished: Unfinished, base: Variant
) -> LayerFiles:
    """Where a job keeps its finished layers; only one that follows from all the same reads them again."""
    rows, tokens = statistics.activation_stats, statistics.tokens
    follows_from = {
        "code": code_versions.PRUNING,
        "recipe": job.recipe.hash,
        "weights": unfinished.weight_hash,
        "model dtype": str(decoder.dtype),
        "layers": len(decoder.layers),
        "base": base.hash,
        "origin": job.origin.hash,
        "sparsities": list(job.sparsities),
        "tokens": "" if tokens is None else tokens_hash(tokens),
        "dtype": str(statistics.dtype),
        "activation_stats": "" if rows is None else hashlib.sha256(rows.write_ipc(None).getvalue()).hexdigest(),
    }
    fingerprint = hashlib.sha256(json.dumps(follows_from).encode()).hexdigest()
    return LayerFiles(unfinished.folder / job.recipe.name, fingerprint)
