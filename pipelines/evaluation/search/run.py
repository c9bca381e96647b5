"""Assembly of a search on one model: its items, menu, refits and journal, and the rows of its tables.

The strategies are those of `search`; nothing is read from or written to the warehouse here.
"""

import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.search.items import Item, interleaved, prompt_items, text_items
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import KEEP, Allocation, Menu
from prunescope.pipelines.evaluation.search.search import Refit, Search
from prunescope.pipelines.evaluation.tokenization.prompts import tokenize_prompts
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune_all
from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.studies import GenerationSpec, Study
from prunescope.pipelines.studies.prompt_sets import resolve_prompts
from prunescope.pipelines.studies.prompts import KINDS, Prompt
from prunescope.pipelines.studies.search_spec import SearchSpec

TABLES = ("search_effects", "search_trials")


@dataclass(frozen=True)
class SearchKey:
    """The names of a search.

    Attributes:
        model: in the tables.
        search: hash of everything that its measurements depend on.
        weight_hash: hash of the dense weights.
    """

    model: str
    search: str
    weight_hash: str


def run_search(
    decoder: Decoder,
    study: Study,
    key: SearchKey,
    statistics: Statistics,
    folder: Path,
    earlier: Mapping[str, pl.DataFrame],
    progress: Progress = SILENT,
) -> dict[str, pl.DataFrame]:
    """Search for the study's targets and return all rows of both tables.

    Args:
        decoder: the dense model.
        study: its `search`, calibration, prompts and tasks.
        key: names for the rows.
        statistics: of the dense model, with the calibration tokens.
        folder: keeps finished measurements and layers; the same call after a kill continues from there.
        earlier: rows of the model's searches so far, by table, without columns where there are none. Rows of other
            searches stay, and so do those of this search at other targets; targets that it has are not searched again.
        progress: receives the progress of each measurement.

    Raises:
        InputError: the menu cannot reach a target, or items are missing.
        ComputationError: the time was over before a target had a trial, or the arithmetic failed.
        OSError: the folder cannot be written.
    """
    spec = study.search
    if spec is None:
        raise ValueError(f"study {study.name} has no `search`")
    known = earlier["search_trials"]
    found = set() if known.is_empty() else set(known.filter(search=key.search, is_result=True)["remove"])
    if not (missing := tuple(share for share in spec.remove if share not in found)):
        return {table: earlier[table] for table in TABLES}
    spec = spec.model_copy(update={"remove": missing})
    items = search_items(decoder, study, spec)
    inside = replace(statistics, unfinished=Unfinished(folder / "menu", key.weight_hash))
    search = Search(
        decoder,
        spec,
        Menu(decoder, spec.menu, inside, progress=progress),
        items,
        _refit(decoder, replace(statistics, unfinished=Unfinished(folder / "refit", key.weight_hash)), progress),
        Journal(folder / "journal", key.search),
        progress,
    )
    result = search.run()
    results = result.trials.filter(strategy="searched", is_result=True)
    if late := [share for share in missing if share not in set(results["remove"])]:
        raise ComputationError(
            f"search: {spec.minutes:g} minutes were over before an allocation that removes {late[0]:.1%} was measured; "
            "give more `minutes` (--minutes) and run it again: what was measured is kept"
        )
    return {
        "search_effects": _appended(earlier["search_effects"], _named(result.effects, key, {}), key, missing),
        "search_trials": _appended(
            known, _named(result.trials, key, {"objective": spec.objective, "budget": spec.budget}), key, missing
        ),
    }


def search_items(decoder: Decoder, study: Study, spec: SearchSpec) -> list[Item]:
    """Return the items of a search: windows of the calibration text and prompts that the study does not ask."""
    texts = text_items(decoder, study, spec.texts, spec.length, spec.seed)
    return interleaved(texts, prompt_items(decoder, unasked(decoder, study, spec)))


def unasked(decoder: Decoder, study: Study, spec: SearchSpec) -> Study:
    """Return the study with prompts of the shipped sets that it does not ask in place of its own.

    Args:
        decoder: the dense model, in whose context they fit.
        study: the study.
        spec: number of prompts, seed of their draw, and length of their answers.
    """
    asked = {prompt.text.strip() for prompt in study.prompts}
    shipped = resolve_prompts(list(KINDS), "search", is_shipped=True)
    left = [each for each in shipped if isinstance(each, Prompt) and each.text.strip() not in asked]  # type: ignore[attr-defined]
    random.Random(spec.seed).shuffle(left)  # noqa: S311 (no secret)
    drawn = study.model_copy(update={"generation": GenerationSpec(new_tokens=spec.new_tokens), "prompts": ()})
    for prompt in left:
        if len(drawn.prompts) == spec.prompts:
            break
        one = drawn.model_copy(update={"prompts": (prompt,)})
        with suppress(InputError):  # it is too long
            tokenize_prompts(one, decoder.tokenizer, decoder.context_length)
            drawn = drawn.model_copy(update={"prompts": (*drawn.prompts, prompt)})
    return drawn


def _refit(decoder: Decoder, statistics: Statistics, progress: Progress) -> Refit:
    def refit(allocation: Allocation) -> Variant:
        treatments = {label: treatment for label, treatment in allocation.items() if treatment != KEEP}
        recipe = MixedRecipe.model_validate({"name": "refit", "treatments": treatments})
        variant = prune_all(decoder, [recipe], statistics, progress)[recipe.name]
        if not isinstance(variant, Variant):
            raise variant
        return variant

    return refit


def _named(rows: pl.DataFrame, key: SearchKey, columns: Mapping[str, str]) -> pl.DataFrame:
    values = {"model": key.model, "search": key.search} | dict(columns)
    return rows.with_columns(**{name: pl.lit(value) for name, value in values.items()})


def _appended(earlier: pl.DataFrame, rows: pl.DataFrame, key: SearchKey, targets: tuple[float, ...]) -> pl.DataFrame:
    """Return rows behind the earlier ones that they do not replace; trials are numbered on."""
    if earlier.is_empty():
        return rows
    is_same = pl.col("search") == key.search
    if "trial" not in rows.columns:  # effects do not depend on targets
        kept = earlier.filter(~is_same)
    else:
        kept = earlier.filter(~(is_same & pl.col("remove").is_in(targets)))
        last = kept.filter(is_same)["trial"].max()
        shift = 0 if last is None else int(str(last)) + 1
        rows = rows.with_columns(pl.col("trial", "parent") + shift)
    kept = kept.with_columns(pl.col(pl.Categorical).cast(pl.String))
    return pl.concat([kept, rows.select(kept.columns)], how="vertical_relaxed")
