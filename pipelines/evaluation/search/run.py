"""Assembly of a search on one model: items, menu, journal and rows; `search` has the strategies. No warehouse here."""

import json
import random
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from prunescope.pipelines.core.atomic_write import replace_file
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.search.items import search_items
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.search import Search
from prunescope.pipelines.evaluation.search.started import StartedSearch, as_mixture
from prunescope.pipelines.evaluation.search.step_time import step_milliseconds
from prunescope.pipelines.evaluation.tokenization.prompts import tokenize_prompts
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.layer_checkpoints import discard
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.studies import GenerationSpec, Study
from prunescope.pipelines.studies.prompt_sets import resolve_prompts
from prunescope.pipelines.studies.prompts import KINDS, Prompt
from prunescope.pipelines.studies.search_spec import SearchSpec

# File in the folder of a search with the targets that are not finished.
_TARGETS = "targets.json"


def run_search(
    decoder: Decoder,
    study: Study,
    model: str,
    search: str,
    statistics: Statistics,
    folder: Path,
    earlier: Mapping[str, pl.DataFrame],
    progress: Progress = SILENT,
) -> tuple[dict[str, pl.DataFrame], set[float]]:
    """Search for the study's targets.

    `search` is the hash of all that measurements depend on. `folder` stores finished measurements; the same call after
    an interruption continues from there. Finished layers are kept in `statistics.unfinished`, which should lie in it.
    `earlier` has the rows of the model's earlier searches, by table; without columns if there are none. Rows of other
    searches stay, and so do rows of this search at other targets. Targets that already have rows are not searched
    again.

    Returns:
        All rows of both tables, and the targets, of this and of earlier calls, at which the time was over before every
        strategy ended. A call with more minutes continues there, as long as the folder exists and `end_search` has
        recorded these targets in it.

    Raises:
        InputError: the menu cannot reach a target, or items are missing.
        ComputationError: the time was over before a target had a trial, or the arithmetic failed.
        OSError: the folder cannot be written.
    """
    spec = study.search
    if spec is None:
        raise ValueError(f"study {study.name} has no `search`")
    known = earlier["search_trials"]
    effects = earlier["search_effects"]
    own = {"search": search, "strategy": "searched", "is_result": True}
    is_known = not (known.is_empty() or effects.is_empty()) and search in effects["search"]
    # An interrupted search continues with its targets, also with those that have a result.
    begun = unfinished_targets(folder)
    found = _found(spec, known.filter(**own)) - begun if is_known else set()
    waiting = begun - {*spec.targets}
    if not (missing := tuple(target for target in spec.targets if target not in found)):
        return dict(earlier), waiting
    _write_targets(folder, {*missing, *waiting})
    if spec.start is None:
        spec = spec.model_copy(update={"remove": missing})
    journal = Journal(folder / "journal", search)

    def menu_of(treatments: Sequence[str], splits: Sequence[MixedRecipe]) -> Menu:
        return Menu(decoder, treatments, statistics, splits, times, progress)

    try:
        items = search_items(decoder, study, unasked(decoder, study, spec), spec, progress)
        times = None
        if spec.unit == "milliseconds":  # measured once per search
            measured = journal.remember(
                ["milliseconds"], lambda: {label: np.array(own) for label, own in step_milliseconds(decoder).items()}
            )
            times = {label: float(own) for label, own in measured.items()}
        start = None if spec.start is None else as_mixture(decoder, spec.start, statistics, progress)
        kind = Search if start is None else StartedSearch
        result = kind(decoder, spec, menu_of, items, journal, progress, start).run()
    except InputError:
        # A refused target does not wait. Measurements for the other targets stay.
        _write_targets(folder, begun)
        raise
    results = result.trials.filter(strategy="searched", is_result=True)
    if late := [target for target in missing if target not in _found(spec, results)]:
        what = f"an allocation that removes {late[0]:.1%}" if spec.start is None else spec.start.name
        raise ComputationError(
            f"search: {spec.minutes:g} minutes were over before {what} was measured; "
            "give more `minutes` (--minutes) and run it again: what was measured is kept"
        )
    names = {"model": pl.lit(model), "search": pl.lit(search)}
    trials = result.trials.with_columns(**names, objective=pl.lit(spec.objective), budget=pl.lit(spec.unit))
    tables = {
        "search_effects": _appended(effects, result.effects.with_columns(**names), search),
        "search_trials": _appended(known, trials, search),
    }
    return tables, waiting if result.is_complete else {*missing, *waiting}


def end_search(folder: Path, left: Collection[float]) -> None:
    """Delete what a search keeps to be continued, unless targets are left; call it after writing the tables."""
    if left:
        _write_targets(folder, left)
    else:
        discard(folder)


def unfinished_targets(folder: Path) -> set[float]:
    """Return the targets of a search at which it was interrupted or ran out of time."""
    file = folder / _TARGETS
    return set(json.loads(file.read_text())) if file.exists() else set()


def _write_targets(folder: Path, targets: Collection[float]) -> None:
    replace_file(folder / _TARGETS, lambda temporary: temporary.write_text(json.dumps(sorted(targets))))


def unasked(decoder: Decoder, study: Study, spec: SearchSpec) -> Study:
    """Return the study with prompts of the package that it does not use and that fit, in place of its own."""
    asked = {prompt.text.strip() for prompt in study.prompts}
    # The package's sets have the names of the kinds.
    shipped = cast(list[Prompt], resolve_prompts(list(KINDS), "search", is_shipped=True))
    left = [prompt for prompt in shipped if prompt.text.strip() not in asked]
    random.Random(spec.seed).shuffle(left)  # noqa: S311 (no secret)
    drawn = study.model_copy(update={"generation": GenerationSpec(new_tokens=spec.new_tokens), "prompts": ()})
    for prompt in left:
        if len(drawn.prompts) == spec.prompts:
            break
        one = drawn.model_copy(update={"prompts": (prompt,)})
        (tokenized,) = tokenize_prompts(one, decoder.tokenizer, sys.maxsize)
        if len(tokenized.ids) + spec.new_tokens <= decoder.context_length:
            drawn = drawn.model_copy(update={"prompts": (*drawn.prompts, prompt)})
    return drawn


def _found(spec: SearchSpec, results: pl.DataFrame) -> set[float]:
    """Return the targets of a search that have a result; a search from a start has one target."""
    if spec.start is None:
        return set(results["remove"])
    return {*spec.targets} if results.height else set()


def _appended(earlier: pl.DataFrame, rows: pl.DataFrame, search: str) -> pl.DataFrame:
    """Return earlier rows that are not replaced, then the new rows; new trials continue the numbering."""
    if earlier.is_empty():
        return rows
    earlier, is_same = earlier.with_columns(pl.col(pl.Categorical).cast(pl.String)), pl.col("search") == search
    if "trial" not in rows.columns:  # targets do not change an effect, but select which effects are measured
        keys = ["search", "layer", "sublayer", "matrix", "treatment"]
        # A measurement for other targets is not replaced by a computed value for these.
        measured = earlier.filter(pl.col("n_items") > 0)
        again = rows.filter(n_items=0).join(measured, on=keys, how="semi", maintain_order="left").select(keys)
        rows = rows.join(again, on=keys, how="anti", maintain_order="left")
        kept = earlier.join(rows, on=keys, how="anti", maintain_order="left")
    else:
        kept = earlier.filter(~(is_same & pl.col("remove").is_in(rows["remove"].unique().implode())))
        last = kept.filter(is_same)["trial"].max()
        shift = 0 if last is None else int(str(last)) + 1
        rows = rows.with_columns(pl.col("trial", "parent") + shift)
    return pl.concat([kept, rows.select(kept.columns)], how="vertical_relaxed")
