"""What the watched studies lack: partitions that are not there, and those that other inputs have made outdated.

Looked at every half minute, so a file is opened only when it has changed. No torch, no Dagster, nothing is fetched,
hashed or converted: what cannot be known without that is `changed`, and a run finds out.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from prunescope.assets import settings
from prunescope.assets.execution.task import STEPS
from prunescope.assets.planning import answer_version
from prunescope.assets.planning.fingerprints import (
    CODE_VERSIONS,
    MODEL_TABLES,
    DenseModel,
    accepted,
    variant_file,
    variant_tables,
)
from prunescope.assets.planning.work_plan import report_fingerprint
from prunescope.assets.watching.watch_list import Watched, WatchState, load_watch_state
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.cached_identity import known_folder, known_identity, stamp
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.studies import Study
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.file_state import stamps
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store, fits
from prunescope.warehouse.storage.provenance import fingerprint, read_footer
from prunescope.warehouse.tables import TABLES

# A model, and a recipe unless it is about the model itself.
Partition = tuple[str, str | None]


@dataclass(frozen=True)
class MissingWork:
    """What one watched study lacks of one of its models.

    Attributes:
        watched: the study.
        model: name of the model.
        missing: recipes with a table that is not there, None for the model itself; each with what it waits for, which
            is another one as soon as model, recipe or study is.
        changed: where the model's files are not those that its tables were made from, what they are now, else "".
    """

    watched: Watched
    model: str
    missing: dict[str | None, str]
    changed: str


@dataclass(frozen=True)
class Backlog:
    """The state of a warehouse against its watched studies.

    Attributes:
        watch: what is watched.
        due: by study and model, where something is missing or the model has changed.
        outdated: by table, the partitions that a watched study made from other inputs than it has now; each with the
            fingerprint that is wanted.
        stale_reports: by study, the version that its report should have.
        of_others: by study and model, recipes (None: the model itself) that another study measured from other inputs,
            each with that study's name; nothing makes them again.
    """

    watch: WatchState
    due: list[MissingWork]
    outdated: dict[str, dict[Partition, str]]
    stale_reports: dict[str, str]
    of_others: dict[tuple[str, str], dict[str | None, str]] = field(default_factory=dict)

    def ready(self, table: str) -> dict[Partition, str]:
        """The outdated partitions whose turn it is: nothing above them is outdated, nothing beside them missing."""
        missing = {(due.model, recipe) for due in self.due for recipe in due.missing}
        above = {partition for name in MODEL_TABLES for partition in self.outdated.get(name, {})}
        return {
            (model, recipe): wanted
            for (model, recipe), wanted in self.outdated.get(table, {}).items()
            if (recipe is None or (model, None) not in above) and not {(model, None), (model, recipe)} & missing
        }

    def waits_for_tables(self, study: Study) -> bool:
        """Whether a partition of the study is missing or outdated, or could be."""
        models, recipes = {model.name for model in study.models}, {None, *(recipe.name for recipe in study.recipes)}
        return any(due.watched.study.name == study.name for due in self.due) or any(
            model in models and recipe in recipes
            for partitions in self.outdated.values()
            for model, recipe in partitions
        )

    def lacks(self, study: Study) -> bool:
        """Whether a run of the study would have anything to do, as far as can be seen without fetching its models."""
        return study.name in self.stale_reports or self.waits_for_tables(study)

    def recipe_hashes(self) -> dict[str, set[str]]:
        """The versions that watched studies give a recipe, by its name."""
        found: dict[str, set[str]] = {}
        for each in self.watch.studies:
            for recipe in each.study.recipes:
                found.setdefault(recipe.name, set()).add(recipe.hash)
        return found


@dataclass(frozen=True)
class _Seen:
    """What a footer says: who made the partition from what, and whether it has the table's present columns."""

    fingerprint: str
    study: str
    fits: bool


@dataclass
class _Findings:
    """What is found of one study after the other.

    Attributes:
        there: the partitions that there are, by table; None where a file is damaged.
        due: as in `Backlog`.
        current: the partitions that some watched study takes for current.
        outdated: as in `Backlog`, those among them that are current for another study included.
        of_others: as in `Backlog`.
        refused: models that cannot be found, by study and name, and why.
    """

    there: dict[tuple[str, Partition], _Seen | None]
    due: list[MissingWork] = field(default_factory=list)
    current: set[tuple[str, Partition]] = field(default_factory=set)
    outdated: dict[str, dict[Partition, str]] = field(default_factory=dict)
    of_others: dict[tuple[str, str], dict[str | None, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Dense:
    """What is known of a model without reading its weights: what its files are, and its hashes where they are known."""

    files: str
    model: DenseModel | None

    @classmethod
    def of(cls, study: Study, name: str) -> Self:
        spec, cache = study.model(name), settings.cache_folder()
        folder = known_folder(spec.source, cache)
        if folder is None:
            return cls(_outside(spec.source), None)
        identity = known_identity(folder, cache)
        return cls(stamp(folder), DenseModel(spec, folder, identity) if identity else None)


@dataclass
class FreshnessScanner:
    """Compares a warehouse with its watch list, and remembers what it has read until it changes."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _footers: dict[str, tuple[str, _Seen | None]] = field(default_factory=dict)
    _accepted: dict[str, dict[tuple[str, str | None], tuple[str, ...]]] = field(default_factory=dict)

    def survey(self, store: Store) -> Backlog:
        """What is due now.

        Raises:
            InputError: the watch list is not valid.
            WarehouseError: the warehouse cannot be read.
        """
        watch, reports = load_watch_state(store), dict[str, str]()
        with self._lock:
            found = _Findings(self._partitions(store, watch.studies))
            kept, self._accepted = self._accepted, {}
            for watched in watch.studies:
                measures = _measures(watched.study)
                prunes = {recipe: _prunes(recipe) for recipe in (None, *watched.study.recipes)}
                for model in watched.study.models:
                    try:
                        self._compare(store, watched, model.name, measures, prunes, found, kept)
                    except (InputError, OSError) as error:
                        found.refused[f"{watched.study.name}: {model.name}"] = str(error)
        for watched in watch.studies:
            if partitions := _fingerprints(store, watched.study, found):
                version = answer_version.report_version(store, watched.study, partitions)
                if version != report_fingerprint(store, watched.study):
                    reports[watched.study.name] = version
        # What one study takes for current, no other one makes again.
        outdated = {
            table: {key: wanted for key, wanted in partitions.items() if (table, key) not in found.current}
            for table, partitions in found.outdated.items()
        }
        refused = watch.refused | found.refused
        return Backlog(replace(watch, refused=refused), found.due, _together(outdated), reports, found.of_others)

    def _partitions(self, store: Store, studies: Iterable[Watched]) -> dict[tuple[str, Partition], _Seen | None]:
        wanted = {
            (table.name, (model.name, recipe))
            for each in studies
            for table in TABLES.values()
            for model in each.study.models
            for recipe in ([None] if table.partitioning == "model" else [recipe.name for recipe in each.study.recipes])
        }
        found, footers = {}, {}
        paths = {(table, partition): store.path(TABLES[table], *partition) for table, partition in wanted}
        for key, (path, mark) in stamps(store.root, paths).items():
            kept = self._footers.get(str(path))
            footers[str(path)] = kept if kept is not None and kept[0] == mark else (mark, _seen(key[0], path))
            found[key] = footers[str(path)][1]
        self._footers = footers
        return found

    def _compare(
        self,
        store: Store,
        watched: Watched,
        model: str,
        measures: str,
        prunes: Mapping[Recipe | None, str],
        found: _Findings,
        kept: Mapping[str, dict[tuple[str, str | None], tuple[str, ...]]],
    ) -> None:
        """One model of a study whose `_measures` and `_prunes` are known; `kept` was accepted at the last look."""
        study, dense = watched.study, _Dense.of(watched.study, model)
        wanted = dict[tuple[str, str | None], tuple[str, ...]]()
        if dense.model:
            identity = dense.model.identity
            hashes = [identity.weight_hash, identity.tokenizer_hash, *prunes.values()]
            key = fingerprint({"study": measures, "hashes": hashes})
            wanted = self._accepted[key] = kept.get(key) or _accepted(study, dense.model)
        missing, is_there = dict[str | None, str](), False
        for recipe, pruned in prunes.items():
            name = recipe.name if recipe else None
            for table in MODEL_TABLES if recipe is None else variant_tables(study):
                partition = (model, name)
                seen = found.there.get((table, partition))
                is_current = seen is not None and seen.fits and seen.fingerprint in wanted.get((table, name), ())
                if seen is None or (is_current and table == "variants" and not _has_masks(store, study, dense, recipe)):
                    missing[name] = fingerprint({"study": measures, "recipe": pruned, "files": dense.files})
                elif is_current:
                    found.current.add((table, partition))
                elif wanted and seen.study == study.name:
                    found.outdated.setdefault(table, {})[partition] = wanted[table, name][0]
                elif wanted:
                    found.of_others.setdefault((study.name, model), {})[name] = seen.study
                is_there = is_there or seen is not None
        changed = dense.files if is_there and not wanted else ""
        if missing or changed:
            found.due.append(MissingWork(watched, model, missing, changed))


def _fingerprints(store: Store, study: Study, found: _Findings) -> dict[str, str]:
    """As `state.partitions_of`, from what was read before."""
    models, recipes = {model.name for model in study.models}, {None, *(recipe.name for recipe in study.recipes)}
    return {
        str(store.path(TABLES[table], model, recipe).relative_to(store.root)): seen.fingerprint
        for (table, (model, recipe)), seen in found.there.items()
        if seen is not None and model in models and recipe in recipes
    }


def _has_masks(store: Store, study: Study, dense: _Dense, recipe: Recipe | None) -> bool:
    """Whether the file of a pruned variant is there; of a store it is believed, which saves a question a variant."""
    if recipe is None or dense.model is None or not isinstance(store.root, Path):
        return True
    return (store.root / variant_file(study, dense.model, recipe)).is_file()


def _seen(table: str, path: Place) -> _Seen | None:
    try:
        footer = read_footer(path)
    except (FileNotFoundError, WarehouseError):  # what cannot be read is computed again
        return None
    return _Seen(footer.provenance.fingerprint, footer.provenance.study, fits(TABLES[table], footer.schema))


def _accepted(study: Study, dense: DenseModel) -> dict[tuple[str, str | None], tuple[str, ...]]:
    found: dict[tuple[str, str | None], tuple[str, ...]] = {
        (table, None): tuple(accepted(table, study, dense.identity, None)) for table in MODEL_TABLES
    }
    for recipe in study.recipes:
        for table in variant_tables(study):
            found[table, recipe.name] = tuple(accepted(table, study, dense.identity, recipe))
    return found


def _measures(study: Study) -> str:
    """Changes with everything that a study measures and with the files that it names; not with models and recipes."""
    fields = study.model_dump(mode="json", exclude={"title", "models", "recipes", "noise"})
    return fingerprint({"study": fields, "files": sorted(_files(fields)), "code": CODE_VERSIONS})


def _prunes(recipe: Recipe | None) -> str:
    """Changes with a recipe and with the files that it names."""
    return fingerprint(
        {"recipe": recipe.hash, "files": sorted(_files(recipe.model_dump(mode="json")))} if recipe else {}
    )


def _files(value: object) -> Iterable[str]:
    """Each file that a text somewhere in the study names, with its size and time of change."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _files(each)
    elif isinstance(value, str) and 0 < len(value) < 4096:
        try:
            path = Path(value).expanduser()
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                status = file.stat()
                yield f"{file} {status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError, RuntimeError):  # most texts are no names of files
            return


def _outside(source: str) -> str:
    """What is known of a model that has yet to be fetched or converted.

    Raises:
        InputError: it names a place on this machine where nothing is.
    """
    path = Path(source).expanduser()
    if path.exists():
        return stamp(path)
    if path.is_absolute() or source.startswith((".", "~")):
        raise InputError(f"model {source!r}: no such folder or file")
    return source


def _together(outdated: dict[str, dict[Partition, str]]) -> dict[str, dict[Partition, str]]:
    """With the tables that come out of the same computation."""
    found = {table: dict(partitions) for table, partitions in outdated.items()}
    for tables in STEPS.values():
        joint: dict[Partition, str] = {}
        for table in sorted(set(tables) & set(outdated)):
            joint = outdated[table] | joint
        if joint:
            found |= dict.fromkeys(tables, joint)
    return found
