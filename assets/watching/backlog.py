"""The backlog of the watched studies: what `planning.work_plan` finds missing or outdated, without fetching a model.

The sensor scans every half minute, so a model of a study is compared again only when one of its files, partitions or
settings has changed, and nothing is fetched, hashed or converted. What only those could tell, a run finds out. Without
torch and Dagster.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from prunescope.assets.execution.error_transport import error_line
from prunescope.assets.instance import settings
from prunescope.assets.planning import freshness
from prunescope.assets.planning.fingerprints import DenseModel
from prunescope.assets.planning.steps import CODE_VERSIONS, partition_tables
from prunescope.assets.planning.work_plan import PartitionWork, model_work
from prunescope.assets.watching.watch_list import WatchedStudy, WatchState, load_watch_state
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.cached_identity import known_folder, known_identity, stamp
from prunescope.pipelines.studies import Study
from prunescope.warehouse.core.errors import DamagedFileError, WarehouseError
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.storage.file_state import stamps
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import fingerprint
from prunescope.warehouse.tables import TABLES

# Table and recipe; None for the model's own tables.
Partition = tuple[str, str | None]
Compared = tuple[Mapping[str | None, bool], dict[str | None, str]]


@dataclass(frozen=True)
class Backlog:
    """The work that the watched studies of a warehouse still need.

    Attributes:
        due: by study and model, whether a table of each missing or outdated recipe (None: the model itself) does not
            exist; otherwise it was computed from other inputs.
        inputs: by study, a hash of its settings and of the files of its models.
        stale_reports: by study, the version that its report should have.
        of_others: by study and model, recipes (None: the model itself) that another study computed from other inputs,
            each with that study's name; they are not computed again.
    """

    watch: WatchState
    due: dict[tuple[str, str], Mapping[str | None, bool]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    stale_reports: dict[str, str] = field(default_factory=dict)
    of_others: dict[tuple[str, str], dict[str | None, str]] = field(default_factory=dict)

    def needs(self, study: Study) -> dict[str, str]:
        """Return what a run of the study would do, as far as is known without fetching its models.

        Each need has a text that changes when it has to be met again.
        """
        needs = {
            f"{study.name}/{model}/{recipe or ''}": self.inputs[study.name]
            for (name, model), due in self.due.items()
            if name == study.name
            for recipe in due
        }
        if version := self.stale_reports.get(study.name):
            needs[f"{study.name}/report"] = version
        return needs


@dataclass
class FreshnessScanner:
    """A scanner that compares a warehouse with its watch list, and caches each comparison until something changes."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    # The result of `_compared` by a hash of all that it depends on.
    _cache: dict[str, Compared] = field(default_factory=dict)

    def scan(self, store: Store) -> Backlog:
        """Return the present backlog; errors as `load_watch_state`."""
        watch = load_watch_state(store)
        found = Backlog(watch)
        with self._lock, ExitStack() as stack:
            existing = _existing(store, watch.studies)
            before, self._cache = self._cache, {}
            # Its file is read when a model is compared, and not at every scan.
            files = cache(lambda: stack.enter_context(VerifiedFiles(store.root, settings.cache_folder())))
            for study in (watched.study for watched in watch.studies):
                inputs = [_study_hash(study)]
                for model in study.models:
                    key, own = (study.name, model.name), existing[model.name]
                    try:
                        dense, of_files = _known(study, model.name)
                        parts = [inputs[0], of_files, dense.identity.weight_hash if dense else ""]
                        state = fingerprint({"model": key, "inputs": parts, "partitions": repr(own)})
                        compared = before.get(state) or _compared(store, study, dense, own, files)
                    except WarehouseError:
                        raise
                    except Exception as error:  # one broken model does not keep the others from being measured
                        watch.refused[f"{study.name}: {model.name}"] = error_line(error)
                        continue
                    self._cache[state] = compared
                    inputs.append(of_files)
                    due, others = compared
                    found.due.update({key: due} if due else {})
                    found.of_others.update({key: others} if others else {})
                found.inputs[study.name] = fingerprint({"inputs": inputs})
        for study in (watched.study for watched in watch.studies):
            partitions = _partitions(store, study, existing)
            if partitions and (version := freshness.stale_report(store, study, partitions)):
                found.stale_reports[study.name] = version
        return found


def _existing(store: Store, studies: Iterable[WatchedStudy]) -> Mapping[str, Mapping[Partition, tuple[Place, str]]]:
    """Return by model the files of the studies' partitions, each with a text that changes when the file does."""
    paths = {
        (model.name, table.name, recipe): store.path(table, model.name, recipe)
        for watched in studies
        for table in TABLES.values()
        for model in watched.study.models
        for recipe in ([None] if table.partitioning == "model" else [recipe.name for recipe in watched.study.recipes])
    }
    found = defaultdict[str, dict[Partition, tuple[Place, str]]](dict)
    for (model, table, recipe), file in stamps(store.root, paths).items():
        found[model][table, recipe] = file
    return found


def _known(study: Study, name: str) -> tuple[DenseModel | None, str]:
    """Return a model as far as it is known without reading its weights, and a hash of its files.

    A model that has yet to be fetched has the hash of its source file, or its source instead.

    Raises:
        InputError: the source is a path that does not exist.
    """
    spec, cache_folder = study.model(name), settings.cache_folder()
    folder, path = known_folder(spec.source, cache_folder), Path(spec.source).expanduser()
    if folder is not None:
        identity = known_identity(folder, cache_folder)
        return DenseModel(spec, folder, identity) if identity else None, stamp(folder)
    if not path.exists() and (path.is_absolute() or spec.source.startswith((".", "~"))):
        raise InputError(f"model {spec.source!r}: no such folder or file")
    return None, stamp(path) if path.exists() else spec.source


def _compared(
    store: Store,
    study: Study,
    dense: DenseModel | None,
    existing: Mapping[Partition, object],
    files: Callable[[], VerifiedFiles],
) -> Compared:
    """Return by recipe whether a table is missing among those that a run would compute, and as `Backlog.of_others`."""
    others = dict[str | None, str]()
    works = (
        model_work(study, store, dense, files(), of_others=others)
        if dense
        else [PartitionWork("", recipe, partition_tables(study, recipe)) for recipe in (None, *study.recipes)]
    )
    missing = dict[str | None, bool]()
    for work in works:
        name = work.recipe.name if work.recipe else None
        if work.tables:
            missing[name] = missing.get(name, False) or any((table, name) not in existing for table in work.tables)
    return missing, others


def _partitions(
    store: Store, study: Study, existing: Mapping[str, Mapping[Partition, tuple[Place, str]]]
) -> dict[str, str]:
    """Return `freshness.table_partitions` of a study, without damaged files and without listing them again."""
    recipes, found = {None, *(recipe.name for recipe in study.recipes)}, dict[str, str]()
    for model in study.models:
        for (_, recipe), (path, mark) in existing[model.name].items():
            if recipe in recipes:
                with suppress(FileNotFoundError, DamagedFileError):
                    found[str(path.relative_to(store.root))] = freshness.stored_fingerprint(path, mark)
    return found


def _study_hash(study: Study) -> str:
    """Hash the study's settings and recipes, but not its models, and the files that they name."""
    fields = study.model_dump(mode="json", exclude={"title", "models", "recipes", "noise"})
    recipes = {recipe.hash: recipe.model_dump(mode="json") for recipe in study.recipes}
    # Prompts hold their text and no file; one that is `/` would be searched as a folder.
    named = [{key: value for key, value in fields.items() if key not in {"prompts", "template"}}, *recipes.values()]
    return fingerprint(
        {"study": fields, "recipes": sorted(recipes), "files": sorted(_files(named)), "code": CODE_VERSIONS}
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
        except (OSError, ValueError, RuntimeError):  # most strings are not paths
            return
