"""What a warehouse keeps current unasked: its watch list, and the models that lie in its watched folder.

No Dagster and no torch here; what is still missing is `backlog.py`'s, who starts it `automation.py`'s.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml
from pydantic import ValidationError, model_validator

from prunescope.assets import settings
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.frozen_model import FrozenModel
from prunescope.pipelines.core.safe_yaml import parse_yaml
from prunescope.pipelines.core.validation_errors import first_problem
from prunescope.pipelines.models.cached_identity import require_whole
from prunescope.pipelines.recipes import NAME
from prunescope.pipelines.studies import ModelSpec, Study, load_study, model_name, study_names
from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.storage.atomic_write import translate_os_errors, write_atomically
from prunescope.warehouse.storage.location import failures, read_from
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import unreadable
from prunescope.warehouse.tables import TABLES

LIST, FOLDER = "_watch.yaml", "_models"
# What models that came without a study are measured by.
DEFAULT = "demo"
# A list of names; anything larger is a mistake or an attack on the parser.
_MAX_BYTES = 1_000_000
_HEAD = "# What this warehouse keeps current: `prunescope watch`, `add-model` and `remove-model` write it.\n"
# How copying programs call what is not whole yet.
_UNFINISHED = (".tmp", ".part", ".partial", ".incomplete", ".crdownload", ".aria2", ".swp", "~")


class AddedModel(FrozenModel):
    """A model beside those that a study names; without `study` it belongs to every watched one."""

    name: NAME
    source: str
    study: str = ""


class WatchList(FrozenModel):
    """The file `_watch.yaml`."""

    studies: tuple[str, ...] = ()
    models: tuple[AddedModel, ...] = ()

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for key, values in (("studies", self.studies), ("models", [model.name for model in self.models])):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"`{key}`: {twice[0]!r} stands there twice")
        if strange := sorted({model.study for model in self.models} - {"", *self.studies}):
            raise ValueError(f"`models`: {strange[0]!r} is none of the `studies`")
        return self


@dataclass(frozen=True)
class Watched:
    """A study that is kept current.

    Attributes:
        request: what a run of it is asked for.
        study: as it loads, with all its models.
        origins: by name of a model, where it comes from: `study`, `list` or `folder`.
    """

    request: StudyRequest
    study: Study
    origins: dict[str, str]

    def of_model(self, model: str, recipes: Sequence[str] = ()) -> StudyRequest:
        """The request for one of its models, of some recipes or of all."""
        named = f"{model}={self.study.model(model).source}" if self.origins[model] != "study" else model
        # Where there is no study, its models stand in place of those of the default one.
        return StudyRequest(self.request.study, (named,), tuple(recipes))


@dataclass(frozen=True)
class WatchState:
    """All that is kept current.

    Attributes:
        studies: the watched ones, or the default one with the models that came without a study.
        refused: what cannot be watched, and why: studies and models by their places.
        copying: models in the watched folder whose copy has not ended.
        is_whole: whether every study of the list could be read and nothing is being copied, so that what is not here
            is really gone.
    """

    studies: tuple[Watched, ...]
    refused: dict[str, str]
    copying: tuple[str, ...]
    is_whole: bool

    def naming(self, model: str, recipe: str | None) -> list[Watched]:
        """The watched studies that name a partition."""
        return [
            each
            for each in self.studies
            if model in each.origins and (recipe is None or recipe in {own.name for own in each.study.recipes})
        ]


def models_folder(store: Store) -> Path:
    """The watched folder, always on this machine; it need not exist."""
    return store.local(settings.cache_folder()) / FOLDER


def make_models_folder(store: Store) -> None:
    """Makes the watched folder, so that whoever wants to drop a model finds it.

    Raises:
        WarehouseError: it cannot be made.
    """
    folder = models_folder(store)
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def read_list(store: Store) -> WatchList:
    """The watch list; an empty one where there is no file.

    Raises:
        InputError: the file is not a valid list.
        WarehouseError: it cannot be read.
    """
    place = store.root / LIST
    try:
        content = read_from(place, lambda file: file.read(_MAX_BYTES + 1))
    except FileNotFoundError:
        return WatchList()
    except failures() as error:
        raise unreadable(place, error) from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"{place}: larger than {_MAX_BYTES:,} bytes, which no watch list is")
    try:
        fields = parse_yaml(content.decode(), str(place))
        return WatchList.model_validate({} if fields is None else fields)
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 text; mend it, or delete it and watch again") from error
    except ValidationError as error:
        where, message = first_problem(error, WatchList)
        key = ".".join(str(part) for part in where)
        raise InputError(f"{place}: {f'`{key}`: ' if key else ''}{message}") from error


@contextmanager
def changed(store: Store) -> Iterator[list[WatchList]]:
    """The watch list in a list, whose last member is written at the end; two that change it take turns.

    Raises:
        InputError, WarehouseError: it cannot be read or written; it is as it was.
    """
    lock = store.local(settings.cache_folder()) / "_watch.lock"
    with translate_os_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = read_list(store)
        versions = [before]
        yield versions
        if versions[-1] != before:
            text = _HEAD + yaml.safe_dump(versions[-1].model_dump(mode="json"), sort_keys=False)
            write_atomically(store.root / LIST, lambda temporary: _write(temporary, text))


def load_watch_state(store: Store) -> WatchState:
    """What is watched now: the list and the folder together.

    Raises:
        InputError: the watch list is not valid.
        WarehouseError: it cannot be read.
    """
    listed, refused = read_list(store), dict[str, str]()
    loaded = dict[str, Study]()
    for name in listed.studies or (DEFAULT,):
        try:
            loaded[name] = load_study(name)
        except InputError as error:
            refused[name] = str(error)
    own = {model.name for study in loaded.values() for model in study.models} if listed.studies else set()
    dropped, copying = _dropped(models_folder(store), own | {model.name for model in listed.models}, refused)
    studies = []
    for name, study in loaded.items():
        listed_here = [model for model in listed.models if model.study in {"", name}]
        origins = dict.fromkeys((model.name for model in listed_here), "list") | dict.fromkeys(dropped, "folder")
        named = tuple(f"{model.name}={model.source}" for model in listed_here)
        named += tuple(f"{model}={path}" for model, path in dropped.items())
        if listed.studies:
            origins = dict.fromkeys((model.name for model in study.models), "study") | origins
            request = StudyRequest(name, added=named)
        elif named:
            request = StudyRequest(name, models=named)
        else:
            continue
        try:
            studies.append(Watched(request, request.load(), origins))
        except InputError as error:
            refused[name] = str(error)
    return WatchState(
        tuple(studies), refused, copying, is_whole=not (copying or refused.keys() & {*listed.studies, DEFAULT})
    )


def request_for(
    store: Store,
    model: str | None = None,
    recipe: str | None = None,
    remembered: Callable[[str], StudyRequest | None] = lambda _: None,
) -> StudyRequest:
    """The request of a run that names no study: that of a watched study, else of the study that made the partition.

    Args:
        store: the warehouse.
        model: of the run's partition, if it has one.
        recipe: of the run's partition, if it has one.
        remembered: what the run was asked for in which a study, by its name, made the partition before.

    Raises:
        InputError, WarehouseError: as `load_watch_state`.
    """
    watch = load_watch_state(store)
    if model is None:
        naming = [
            each for each in watch.studies if recipe is None or recipe in {own.name for own in each.study.recipes}
        ]
        return naming[0].request if naming else StudyRequest(DEFAULT)
    maker = made_by(store, model, recipe)
    naming = watch.naming(model, recipe)
    # Of two that name it, the one that computed it may compute it again.
    if naming:
        return next((each for each in naming if each.study.name == maker), naming[0]).request
    if maker is not None and (request := remembered(maker)):
        return request
    if maker is None or maker in study_names():
        return StudyRequest(maker or DEFAULT)
    raise InputError(
        f"{model if recipe is None else f'{model}@{recipe}'} was computed by study {maker!r}, which is not watched; "
        "say `prunescope watch` with its file, or name that file as the run's resources.study.config.study"
    )


def made_by(store: Store, model: str, recipe: str | None) -> str | None:
    """The name of the study that computed a partition; None where there is none."""
    table = TABLES["models" if recipe is None else "variants"]
    try:
        found = store.provenance(table, model, recipe)
    except DamagedFileError:
        return None
    return found.study if found else None


def _dropped(folder: Path, taken: set[str], refused: dict[str, str]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The models of the folder by name, and what is still being copied; what is wrong goes to `refused`."""
    found, copying = dict[str, Path](), []
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
                found[ModelSpec(name=name, source=str(model)).name] = model
        except (InputError, OSError) as error:
            refused[str(entry)] = str(error)
    return found, tuple(copying)


def _is_changing(entry: Path) -> bool:
    """Whether a copy is under way: a file changed a moment ago, or one has the name of an unfinished download.

    The time of change is the system's own, which a copying program cannot set back as it can that of modification.
    """
    files = [entry, *entry.iterdir()] if entry.is_dir() else [entry]
    newest = max(file.lstat().st_ctime for file in files)
    return time.time() - newest < settings.watch_seconds() or any(file.name.endswith(_UNFINISHED) for file in files)


def _model_in(entry: Path) -> Path | None:
    """The folder or GGUF file that an entry is or holds; None where it is something else.

    Raises:
        InputError: it is a folder without a model, or with several.
    """
    if entry.is_file():
        return entry if entry.suffix == ".gguf" else None
    if (entry / "config.json").exists():
        return entry
    files = sorted(entry.glob("*.gguf"))
    if len(files) != 1:
        raise InputError(f"{entry}: holds {'several .gguf files' if files else 'no config.json and no .gguf file'}")
    return files[0]


def _unique(entry: str, taken: set[str]) -> str:
    name = model_name(entry)
    if name and name not in taken:
        return name
    # Deterministic, so that the model keeps its name from look to look.
    return f"{name or 'model'}-"[:90] + hashlib.sha256(os.fsencode(entry)).hexdigest()[:8]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
