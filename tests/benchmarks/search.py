"""Found recipes beside published ones at equal budgets: `python -m tests.benchmarks.search STUDY FOLDER`.

FOLDER holds the files that `prunescope search STUDY -o FOLDER` wrote. All variants are measured on the study's texts,
which the search never saw; differences are paired over windows, with Student's t. `prunescope search` itself judges by
the study's prompts and tasks too, which takes longer.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from prunescope.assets import settings
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.search.published import published_recipes
from prunescope.pipelines.evaluation.search.trials import interval
from prunescope.pipelines.evaluation.traces.text_traces import TextSession
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.pruning.apply import prune_all
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import Recipe, parse_recipe
from prunescope.pipelines.studies import load_study


def compared(study_file: str, folder: Path) -> pl.DataFrame:
    """Return a row for each found and published recipe: removal, KL, perplexity, difference to the found one."""
    study = load_study(study_file)
    decoder = load_decoder(locate(study.models[0].source, settings.cache_folder()))
    tokens = calibration_tokens(decoder.tokenizer, study.calibration)
    measured = calibrate(decoder, study.calibration, "model")
    statistics = Statistics(measured.activation_stats, measured.block_influence, tokens)
    session = TextSession(decoder, "model", study)
    sizes = {each.label: float(sum(matrix.size for matrix in each.matrices.values())) for each in decoder.sublayers}
    total, rows = sum(sizes.values()), list[dict[str, object]]()
    for share, found in sorted(_found(folder).items()):
        published = [parse_recipe(name) for name in published_recipes(sizes, share, "parameters")]
        own = np.empty(0)
        for recipe in (found, *published):
            variant = prune_all(decoder, [recipe], statistics)[recipe.name]
            if not isinstance(variant, Variant):
                raise InputError(f"{recipe.name}: {variant}")
            tokens_of = session.trace(recipe.name, variant)
            windows = tokens_of.group_by("text_id", "window_id", maintain_order=True).agg(
                pl.col("kl_dense_pruned_nats").mean()
            )["kl_dense_pruned_nats"]
            kl = windows.to_numpy().astype(np.float64)
            own = kl if recipe is found else own
            low, difference, high = interval(own - kl)
            masked = sum(int((~mask).sum()) for mask in variant.masks.values())
            rows.append(
                {
                    "remove": share,
                    "recipe": recipe.name,
                    "removed": (masked + sum(sizes[label] for label in variant.dropped)) / total,
                    "kl_nats": float(kl.mean()),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "perplexity": float(np.exp(-tokens_of["log_p_target_pruned"].mean())),
                }
            )
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    return pl.DataFrame(rows)


def _found(folder: Path) -> dict[float, Recipe]:
    """Return the recipe that the search found for each share, by the number in its name (`mixed-20-1a2b3c`)."""
    files = [file for file in sorted(folder.glob("mixed-*.yaml")) if file.stem.split("-")[1].replace(".", "").isdigit()]
    return {float(file.stem.split("-")[1]) / 100: parse_recipe(f"{yaml.safe_load(file.read_text())}") for file in files}


if __name__ == "__main__":
    with pl.Config(tbl_rows=100, tbl_cols=10, tbl_width_chars=140):
        sys.stdout.write(f"{compared(sys.argv[1], Path(sys.argv[2]))}\n")
