"""The backlog of the watched studies: partitions that are missing or outdated.

The sensors scan every half minute, so a file is read only when it has changed, and nothing is fetched, hashed or
converted. What only those could tell is `changed`, and a run finds out. Without torch and Dagster.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from prunescope.assets import settings
from prunescope.assets.execution.error_transport import error_line
from prunescope.assets.planning import freshness
from prunescope.assets.planning.fingerprints import DenseModel, accepted, variant_file
from prunescope.assets.planning.steps import CODE_VERSIONS, partition_tables
from prunescope.assets.watching.watch_list import WatchedStudy, WatchState, load_watch_state
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import require_regular_model
from prunescope.pipelines.models.cached_identity import known_folder, known_identity, stamp
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.studies import Study
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.file_state import stamps
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store, fits
from prunescope.warehouse.storage.provenance import fingerprint, read_footer
from prunescope.warehouse.tables import TABLES

# Model and recipe; None for the model's own tables.
Partition = tuple[str, str | None]
# By table and recipe, the accepted fingerprints of a model's partitions.
Accepted = dict[tuple[str, str | None], tuple[str, ...]]


@dataclass(frozen=True)
class DueWork:
    """What one model of one watched study needs.

    Attributes:
        missing: recipes with a missing table (None: the model itself), each with a hash of model, recipe and study.
        outdated: recipes with a table that the study computed from other inputs than it has now, each with a hash of
            the new inputs.
        changed: hash of the model's files if its tables were computed from other files, else "".
    """

    watched: WatchedStudy
    model: str
    missing: dict[str | None, str]
    outdated: dict[str | None, str]
    changed: str


@dataclass(frozen=True)
class Backlog:
    """The work that the watched studies of a warehouse still need.

    Attributes:
        due: by study and model, missing and outdated partitions and changed models.
        stale_reports: by study, the version that its report should have.
        of_others: by study and model, recipes (None: the model itself) that another study computed from other inputs,
            each with that study's name; they are not computed again.
    """

    watch: WatchState
    due: list[DueWork]
    stale_reports: dict[str, str]
    of_others: dict[tuple[str, str], dict[str | None, str]] = field(default_factory=dict)

    def waits_for_tables(self, study: Study) -> bool:
        """Return whether a partition of the study is missing or outdated, or may be."""
        return any(work.watched.study.name == study.name for work in self.due)

    def is_incomplete(self, study: Study) -> bool:
        """Return whether a run of the study would have work, as far as is known without fetching its models."""
        return study.name in self.stale_reports or self.waits_for_tables(study)


@dataclass(frozen=True)
class _Footer:
    """The facts in a footer that decide freshness, and whether the file has the table's present columns."""

    fingerprint: str
    study: str
    fits: bool


@dataclass
class _Findings:
    """The results of a scan, collected study by study.

    Attributes:
        footers: by table and partition, the existing partitions; None if a file is damaged.
        due: as in `Backlog`, with empty `outdated`.
        current: the partitions that are current for some watched study.
        outdated: outdated partitions, each with its new fingerprint, of each element of `due`; they may be current for
            another study.
        of_others: as in `Backlog`.
        refused: models that cannot be found, with the reason, by study and name.
    """

    footers: dict[tuple[str, Partition], _Footer | None]
    due: list[DueWork] = field(default_factory=list)
    current: set[tuple[str, Partition]] = field(default_factory=set)
    outdated: list[dict[tuple[str, Partition], str]] = field(default_factory=list)
    of_others: dict[tuple[str, str], dict[str | None, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _KnownModel:
    """A model as far as it is known without reading its weights: a hash of its files, and its identity if cached."""

    files: str
    model: DenseModel | None

    @classmethod
    def of(cls, study: Study, name: str) -> Self:
        spec, cache = study.model(name), settings.cache_folder()
        folder = known_folder(spec.source, cache)
        if folder is None:
            return cls(_unfetched(spec.source), None)
        require_regular_model(folder)
        identity = known_identity(folder, cache)
        return cls(stamp(folder), DenseModel(spec, folder, identity) if identity else None)


@dataclass
class FreshnessScanner:
    """A scanner that compares a warehouse with its watch list and caches what it has read."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _footers: dict[str, tuple[str, _Footer | None]] = field(default_factory=dict)
    _accepted: dict[str, Accepted] = field(default_factory=dict)

    def scan(self, store: Store) -> Backlog:
        """Return the present backlog.

        Raises:
            InputError: the watch list is not valid.
            WarehouseError: the warehouse cannot be read.
        """
        watch, reports = load_watch_state(store), dict[str, str]()
        with self._lock:
            found = _Findings(self._read_footers(store, watch.studies))
            before, self._accepted = self._accepted, {}
            for watched in watch.studies:
                settings_hash = _study_hash(watched.study)
                recipes = {recipe: _recipe_hash(recipe) for recipe in (None, *watched.study.recipes)}
                for model in watched.study.models:
                    try:
                        self._compare(store, watched, model.name, settings_hash, recipes, found, before)
                    except WarehouseError:
                        raise
                    except Exception as error:  # one broken model does not keep the others from being measured
                        found.refused[f"{watched.study.name}: {model.name}"] = error_line(error)
        for watched in watch.studies:
            partitions = _study_partitions(store, watched.study, found)
            if partitions and (version := freshness.stale_report(store, watched.study, partitions)):
                reports[watched.study.name] = version
        refused = watch.refused | found.refused
        return Backlog(replace(watch, refused=refused), list(_due(found)), reports, found.of_others)

    def _read_footers(
        self, store: Store, studies: Iterable[WatchedStudy]
    ) -> dict[tuple[str, Partition], _Footer | None]:
        keys = {
            (table.name, (model.name, recipe))
            for watched in studies
            for table in TABLES.values()
            for model in watched.study.models
            for recipe in (
                [None] if table.partitioning == "model" else [recipe.name for recipe in watched.study.recipes]
            )
        }
        footers, cache = {}, {}
        paths = {(table, partition): store.path(TABLES[table], *partition) for table, partition in keys}
        for key, (path, mark) in stamps(store.root, paths).items():
            cached = self._footers.get(str(path))
            cache[str(path)] = cached if cached and cached[0] == mark else (mark, _read_footer(key[0], path))
            footers[key] = cache[str(path)][1]
        self._footers = cache
        return footers

    def _compare(
        self,
        store: Store,
        watched: WatchedStudy,
        model: str,
        settings_hash: str,
        recipes: Mapping[Recipe | None, str],
        found: _Findings,
        before: Mapping[str, Accepted],
    ) -> None:
        """Compare one model of a study; `before` holds the accepted fingerprints of the last scan."""
        study, known = watched.study, _KnownModel.of(watched.study, model)
        expected = Accepted()
        if known.model:
            identity = known.model.identity
            hashes = [identity.weight_hash, identity.tokenizer_hash, *recipes.values()]
            key = fingerprint({"study": settings_hash, "hashes": hashes})
            expected = self._accepted[key] = before.get(key) or _accepted(study, known.model)
        missing, outdated, has_partition = dict[str | None, str](), dict[tuple[str, Partition], str](), False
        for recipe, recipe_hash in recipes.items():
            name = recipe.name if recipe else None
            for table in partition_tables(study, recipe):
                partition = (model, name)
                footer = found.footers.get((table, partition))
                is_current = (
                    footer is not None and footer.fits and footer.fingerprint in expected.get((table, name), ())
                )
                lacks_masks = is_current and table == "variants" and not _has_masks(store, study, known, recipe)
                if footer is None or lacks_masks:
                    missing[name] = fingerprint({"study": settings_hash, "recipe": recipe_hash, "files": known.files})
                elif is_current:
                    found.current.add((table, partition))
                elif expected and footer.study == study.name:
                    outdated[table, partition] = expected[table, name][0]
                elif expected:
                    found.of_others.setdefault((study.name, model), {})[name] = footer.study
                has_partition = has_partition or footer is not None
        changed = known.files if has_partition and not expected else ""
        if missing or changed or outdated:
            found.due.append(DueWork(watched, model, missing, {}, changed))
            found.outdated.append(outdated)


def _due(found: _Findings) -> Iterator[DueWork]:
    """Yield the work, without outdated partitions that are current for another study: they are not computed again."""
    for work, outdated in zip(found.due, found.outdated, strict=True):
        versions: dict[str | None, dict[str, str]] = {}
        for (table, partition), version in outdated.items():
            if (table, partition) not in found.current:
                versions.setdefault(partition[1], {})[table] = version
        states = {recipe: fingerprint(own) for recipe, own in versions.items()}
        if work.missing or work.changed or states:
            yield replace(work, outdated=states)


def _study_partitions(store: Store, study: Study, found: _Findings) -> dict[str, str]:
    """Return the same as `freshness.study_partitions`, from the footers of this scan."""
    models, recipes = {model.name for model in study.models}, {None, *(recipe.name for recipe in study.recipes)}
    return {
        str(store.path(TABLES[table], model, recipe).relative_to(store.root)): footer.fingerprint
        for (table, (model, recipe)), footer in found.footers.items()
        if footer is not None and model in models and recipe in recipes
    }


def _has_masks(store: Store, study: Study, known: _KnownModel, recipe: Recipe | None) -> bool:
    """Return whether the file of a variant exists; assumed on an object store, to save a request per variant."""
    if recipe is None or known.model is None or not isinstance(store.root, Path):
        return True
    return (store.root / variant_file(study, known.model, recipe)).is_file()


def _read_footer(table: str, path: Place) -> _Footer | None:
    try:
        footer = read_footer(path)
    except (FileNotFoundError, WarehouseError):  # a damaged file is computed again
        return None
    return _Footer(footer.provenance.fingerprint, footer.provenance.study, fits(TABLES[table], footer.schema))


def _accepted(study: Study, dense: DenseModel) -> Accepted:
    return {
        (table, recipe.name if recipe else None): tuple(accepted(table, study, dense.identity, recipe))
        for recipe in (None, *study.recipes)
        for table in partition_tables(study, recipe)
    }


def _study_hash(study: Study) -> str:
    """Hash the study's settings, but not its models and recipes, and the files that they name."""
    fields = study.model_dump(mode="json", exclude={"title", "models", "recipes", "noise"})
    # Prompts hold their text and no file; one that is `/` would be searched as a folder.
    named = {key: value for key, value in fields.items() if key not in {"prompts", "template"}}
    return fingerprint({"study": fields, "files": sorted(_files(named)), "code": CODE_VERSIONS})


def _recipe_hash(recipe: Recipe | None) -> str:
    """Hash a recipe and the files that it names."""
    return fingerprint(
        {"recipe": recipe.hash, "files": sorted(_files(recipe.model_dump(mode="json")))} if recipe else {}
    )


def _files(value: object) -> Iterable[str]:
    """Yield the files that strings anywhere in the value name, with size and time of change."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str) and 0 < len(value) < 4096:
        try:
            path = Path(value).expanduser()
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                status = file.stat()
                yield f"{file} {status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError, RuntimeError):  # most strings are no paths
            return


def _unfetched(source: str) -> str:
    """Return a hash of a model's source files, or its name if it has yet to be fetched.

    Raises:
        InputError: the source is a path that does not exist.
    """
    path = Path(source).expanduser()
    if path.exists():
        return stamp(path)
    if path.is_absolute() or source.startswith((".", "~")):
        raise InputError(f"model {source!r}: no such folder or file")
    return source
