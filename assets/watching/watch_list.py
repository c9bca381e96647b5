"""The watch list of a warehouse, and the models in its watched folder. Without Dagster and torch.

The functions raise InputError if the list is not valid, and WarehouseError if it or the warehouse cannot be read or
written.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from prunescope.assets.execution.error_transport import error_line
from prunescope.assets.instance import settings
from prunescope.assets.instance.file_lock import locked
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.frozen_model import NAME, SOURCE, FrozenModel
from prunescope.pipelines.core.safe_yaml import parse_yaml
from prunescope.pipelines.core.validation_errors import first_problem
from prunescope.pipelines.models.cached_identity import require_whole
from prunescope.pipelines.studies import ModelSpec, Study, load_study, study_names
from prunescope.pipelines.studies.names import name_from
from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.storage.atomic_write import translate_os_errors, write_atomically
from prunescope.warehouse.storage.location import failures, read_from
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import unreadable
from prunescope.warehouse.tables import TABLES

LIST, FOLDER = "_watch.yaml", "_models"
# The study of models that were added without one.
DEFAULT = "demo"
_HEAD = "# What this warehouse keeps current: `prunescope watch` and `add-model` write it.\n"
# Suffixes that download and copy programs give unfinished files.
_UNFINISHED = (".tmp", ".part", ".partial", ".incomplete", ".crdownload", ".aria2", ".swp", "~")


class WatchList(FrozenModel):
    """The file `_watch.yaml`: names or files of studies, and the sources of models that are added to each by name."""

    studies: tuple[str, ...] = ()
    models: dict[NAME, SOURCE] = Field(default_factory=dict)


@dataclass(frozen=True)
class WatchedStudy:
    """A study that the sensor keeps current.

    Attributes:
        request: the request of its runs.
        study: the loaded study, with all its models.
    """

    request: StudyRequest
    study: Study


@dataclass(frozen=True)
class WatchState:
    """The watch list and the watched folder as they are now.

    Attributes:
        studies: the watched studies, or the default study with the models that were added without one.
        refused: studies and models that cannot be watched, with the reason, by name or path.
        copying: models in the watched folder that are still being copied.
        is_whole: whether every study of the list could be read and no model is being copied, so that nothing is
            missing here by accident.
    """

    studies: tuple[WatchedStudy, ...]
    refused: dict[str, str]
    copying: tuple[str, ...]
    is_whole: bool


def models_folder(store: Store) -> Path:
    """Return the watched folder, always on this machine; it need not exist."""
    return store.local(settings.cache_folder()) / FOLDER


def make_models_folder(store: Store) -> None:
    """Create the watched folder, so that users find it."""
    folder = models_folder(store)
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def read_list(store: Store) -> WatchList:
    """Read the watch list; return an empty one if there is no file."""
    path = store.root / LIST
    try:
        content = read_from(path, lambda file: file.read())
    except FileNotFoundError:
        return WatchList()
    except failures() as error:
        raise unreadable(path, error) from error
    try:
        fields = parse_yaml(content.decode(), str(path))
        return WatchList.model_validate({} if fields is None else fields)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; correct it, or delete it and watch again") from error
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error, WatchList)}") from error


@contextmanager
def edit_watch_list(store: Store, log: Callable[[str], None] = lambda _: None) -> Iterator[list[WatchList]]:
    """Lock the watch list and yield it in a list; if the caller appends another one, write that at the end.

    `log` is as in `locked`.
    """
    lock = store.local(settings.cache_folder()) / "_watch.lock"
    with locked(lock, log):
        before = read_list(store)
        versions = [before]
        yield versions
        if versions[-1] != before:
            text = _HEAD + yaml.safe_dump(versions[-1].model_dump(mode="json"), sort_keys=False)
            write_atomically(store.root / LIST, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_watch_state(store: Store) -> WatchState:
    """Read the watch list and the watched folder."""
    listed, refused = read_list(store), dict[str, str]()
    loaded = dict[str, Study]()
    for name in listed.studies or (DEFAULT,):
        try:
            loaded[name] = load_study(name)
        except InputError as error:
            refused[name] = str(error)
    own = {model.name for study in loaded.values() for model in study.models} if listed.studies else set()
    dropped, copying = _dropped(models_folder(store), own | listed.models.keys(), refused)
    added = tuple(f"{name}={source}" for name, source in (listed.models | dropped).items())
    studies = []
    for name in loaded if listed.studies or added else ():
        request = StudyRequest(name, added=added) if listed.studies else StudyRequest(name, models=added)
        try:
            studies.append(WatchedStudy(request, request.load()))
        except InputError as error:
            refused[name] = str(error)
    return WatchState(
        tuple(studies), refused, copying, is_whole=not (copying or refused.keys() & {*listed.studies, DEFAULT})
    )


def request_for(
    store: Store,
    model: str | None = None,
    recipe: str | None = None,
    last_request: Callable[[str | None], StudyRequest | None] = lambda _: None,
    table: str | None = None,
) -> StudyRequest:
    """Return the request for a run that names no study; `model` and `recipe` are those of its partition, if it has one.

    Candidates in order: a watched study that names the partition, first the one that computed it; the last run of the
    study that computed it; `demo`. `last_request` returns the request of the last run, of a study given by name or of
    any, with the partition. If `table`, which the run computes, is stored, its study counts, else the variant's or
    model's.

    Raises:
        InputError: the study that computed the partition is known by its name only.
    """
    naming = [
        watched
        for watched in load_watch_state(store).studies
        if model in {None, *(own.name for own in watched.study.models)}
        and recipe in {None, *(own.name for own in watched.study.recipes)}
    ]
    if model is None:
        return naming[0].request if naming else last_request(None) or StudyRequest(DEFAULT)
    computed_by = None
    for name in dict.fromkeys(filter(None, (table, "models" if recipe is None else "variants"))):
        with suppress(DamagedFileError):
            if (provenance := store.provenance(TABLES[name], model, recipe)) is not None:
                computed_by = provenance.study
                break
    if naming:
        # The study that computed it may compute it again.
        return next((watched for watched in naming if watched.study.name == computed_by), naming[0]).request
    if computed_by is not None and (request := last_request(computed_by)):
        return request
    if computed_by is None or computed_by in study_names():
        return StudyRequest(computed_by or DEFAULT)
    raise InputError(
        f"{model if recipe is None else f'{model}@{recipe}'} was computed by study {computed_by!r}, which is not "
        "watched; use `prunescope watch` with its file, or name that file as the run's resources.study.config.study"
    )


def _dropped(folder: Path, taken: set[str], refused: dict[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the models of the folder by name, and those being copied; add errors to `refused`."""
    found, copying = dict[str, str](), []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.name.startswith((".", "_")) or entry.name.endswith(_UNFINISHED):
            continue
        try:
            if _is_changing(entry):
                copying.append(entry.name)
                continue
            model = _model_in(entry)
            name = _unique(entry.name, {*taken, *found})
            if model is not None:
                require_whole(model)
                found[name] = ModelSpec(name=name, source=str(model)).source
        except Exception as error:  # one broken model does not keep the others from being watched
            refused[str(entry)] = error_line(error)
    return found, tuple(copying)


def _is_changing(entry: Path) -> bool:
    """Return whether a copy is under way: a file has just changed, or has the suffix of an unfinished download.

    Copying programs set the time of modification back, but not `st_ctime`, which belongs to the file system.
    """
    files = [entry, *entry.iterdir()] if entry.is_dir() else [entry]
    newest = max(file.lstat().st_ctime for file in files)
    return time.time() - newest < settings.watch_seconds() or any(file.name.endswith(_UNFINISHED) for file in files)


def _model_in(entry: Path) -> Path | None:
    """Return the GGUF file or model folder in an entry of the watched folder; None if the entry is another file.

    Raises:
        InputError: it is a folder without a model, or with several.
    """
    if not entry.is_dir():
        return entry if entry.suffix == ".gguf" else None
    if (entry / "config.json").exists():
        return entry
    files = sorted(entry.glob("*.gguf"))
    if len(files) != 1:
        raise InputError(f"{entry}: holds {'several .gguf files' if files else 'no config.json and no .gguf file'}")
    return files[0]


def _unique(entry: str, taken: set[str]) -> str:
    name = name_from(entry)
    if name and name not in taken:
        return name
    # The hash makes sure that the model has the same name at every scan.
    return f"{name or 'model'}-"[:90] + hashlib.sha256(os.fsencode(entry)).hexdigest()[:8]
