"""A study as the warehouse has it now: its documents and a locked connection for SQL. No Dagster, so that it is fast.

How documents are built is the business of `prunescope.pipelines.reporting.explorer`.
"""

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import duckdb

from prunescope.assets.publishing.explorer_data import asking, documents
from prunescope.assets.watching.watch_list import load_watch_state
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.explorer.document_types import Index
from prunescope.pipelines.studies import Study, load_study, study_names
from prunescope.warehouse.catalogue.database import connect
from prunescope.warehouse.catalogue.scope import narrow
from prunescope.warehouse.storage.location import Place, is_local
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.snapshot import damage_explained
from prunescope.warehouse.tables import TABLES

# Pages that were loaded before the warehouse changed go on with what they were loaded with.
_STATES = 3
_ANSWERS = 64


def studies(root: Place, named: str | None = None) -> dict[str, Study | None]:
    """The studies of which the warehouse has variants, by name, or the one that is named.

    Args:
        root: the warehouse.
        named: a shipped study, the path of a YAML file, or a study that has computed here.

    Returns:
        Each study; None where only the variants that it computed are known, and not its file.

    Raises:
        InputError: the warehouse has no variant, or none of that study; or the file is no study.
        WarehouseError: the warehouse cannot be read.
    """
    with connect(root) as connection:
        computed = _computed(connection)
    known: dict[str, Study | None] = {each.study.name: each.study for each in load_watch_state(Store(root)).studies}
    if named is None:
        names = list(computed)
    elif named.endswith((".yaml", ".yml")):
        study = load_study(named)
        names, known = [study.name], {study.name: study}
    else:
        names = [named]
    shipped = study_names()
    found = {name: known.get(name) or (load_study(name) if name in shipped else None) for name in names}
    found = {name: study for name, study in found.items() if _scope(computed, name, study) is not None}
    if not found:
        have = f"there are {', '.join(computed)}" if computed else "none has run: `prunescope run demo` is one"
        what = "any study" if named is None else f"study {named!r}"
        raise InputError(f"the warehouse {root} has no variant of {what}; {have}")
    return found


def _computed(connection: duckdb.DuckDBPyConnection) -> dict[str, set[tuple[str, str]]]:
    """Model and recipe of the variants that each study computed."""
    query = "SELECT DISTINCT study, model, recipe FROM provenance WHERE table_name = 'variants' ORDER BY ALL"
    found: dict[str, set[tuple[str, str]]] = {}
    with damage_explained(connection):
        for study, model, recipe in connection.execute(query).fetchall():
            found.setdefault(study, set()).add((model, recipe))
    return found


def _scope(
    computed: Mapping[str, set[tuple[str, str]]], name: str, study: Study | None
) -> tuple[set[str], set[str]] | None:
    """The models and recipes of a study; None where there is no variant of them.

    What other studies computed of its models and recipes is theirs and its own.
    """
    variants = computed.get(name, set())
    models, recipes = {model for model, _ in variants}, {recipe for _, recipe in variants}
    if study is not None:
        models |= {model.name for model in study.models}
        recipes |= {recipe.name for recipe in study.recipes}
    there = any(model in models and recipe in recipes for each in computed.values() for model, recipe in each)
    return (models, recipes) if there else None


class ShownStudy:
    """The studies that a server shows, by name: found anew where one is asked for, as a run may compute a new one."""

    def __init__(self, root: Place, named: str | None = None) -> None:
        """Finds the studies.

        Args:
            root: the warehouse.
            named: as `studies`; the one that is named stays the only one.

        Raises:
            InputError: as `studies`.
            WarehouseError: as `studies`.
        """
        self._root, self._is_one = root, named is not None
        self._lives = {name: LiveStudies(root, name, study) for name, study in studies(root, named).items()}
        self._lock = threading.Lock()

    def known(self) -> Mapping[str, "LiveStudies"]:
        """Those that were found so far."""
        return self._lives

    def now(self) -> Mapping[str, "LiveStudies"]:
        """Those that have computed by now; one that was found stays.

        Raises:
            WarehouseError: the warehouse cannot be read.
        """
        if not self._is_one:
            with self._lock, suppress(InputError):  # nothing is left, such as after `gc`: what was shown says so
                found = {name: LiveStudies(self._root, name, study) for name, study in studies(self._root).items()}
                self._lives = found | self._lives
        return self._lives


class LiveStudies:
    """One study over the warehouse as it is now; several threads may use it."""

    def __init__(self, root: Place, name: str, study: Study | None) -> None:
        """Takes the warehouse and one of `studies`; nothing is read yet."""
        self._root, self._name, self._study = root, name, study
        self._states: dict[str, _State] = {}
        self._lock = threading.Lock()

    def index(self) -> Index:
        """The index of the warehouse as it is now, with the `version` that pages ask for other documents by."""
        state = self._now()
        return {**state.build("index"), "version": state.version}  # type: ignore[typeddict-item]

    def build(self, name: str, version: str | None = None) -> Mapping[str, Any]:
        """A document.

        Args:
            name: its name.
            version: that of the index in which the positions in the name count; the newest where None.

        Raises:
            InputError: there is no such document, or what the index was made of is gone.
            WarehouseError: the warehouse cannot be read.
        """
        if name == "index":
            return self.index()
        with self._lock:
            state = self._states.get(version) if version is not None else None
        # A server that was started anew knows the version of an open page as long as no file has changed.
        state = state or self._now()
        if version is not None and state.version != version:
            raise InputError("the warehouse has changed since this page was loaded; reload it")
        try:
            return state.build(name)
        except KeyError as error:
            raise InputError(f"there is no document {name!r}") from error

    @contextmanager
    def locked(self, gibibytes: float) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for the SQL of others, which sees this study alone and can do nothing but read it.

        Args:
            gibibytes: most memory that it may use.

        Raises:
            WarehouseError: as `catalogue.connect`.
        """
        with connect(self._root, safe=True, gibibytes=gibibytes) as connection:
            _narrow(connection, self._name, self._study)
            yield connection

    def _now(self) -> "_State":
        """The state of the warehouse; the one before where no file has changed."""
        version = _version(Store(self._root))
        with self._lock:
            if version not in self._states:
                self._states[version] = _State(self._root, self._name, self._study, version)
                for old in list(self._states)[:-_STATES]:
                    del self._states[old]
            return self._states[version]


class _State:
    """The documents of one state of the warehouse, whose files stay open."""

    def __init__(self, root: Place, name: str, study: Study | None, version: str) -> None:
        self.version = version
        self._connection = connect(root)
        _narrow(self._connection, name, study)
        # What it answers never changes, and many documents ask the same.
        ask = lru_cache(_ANSWERS)(asking(self._connection))
        self._documents = documents(study or name, self._connection, ask, is_live=True)
        self._lock = threading.Lock()

    def build(self, name: str) -> Mapping[str, Any]:
        with self._lock:
            return self._documents.build(name)


def _narrow(connection: duckdb.DuckDBPyConnection, name: str, study: Study | None) -> None:
    models, recipes = _scope(_computed(connection), name, study) or ((), ())
    narrow(connection, models, recipes)


def _version(store: Store) -> str:
    """One hash of which partitions there are and when each was written; of an object store a new one each time."""
    if not is_local(store.root):
        return str(time.time_ns())
    digest = hashlib.sha256()
    for table in TABLES.values():
        for partition in store.partitions(table):
            with suppress(FileNotFoundError):  # removed since it was listed
                status = partition.path.stat()
                digest.update(f"{partition.path}\0{status.st_ino}\0{status.st_mtime_ns}\0{status.st_size}\0".encode())
    return digest.hexdigest()[:16]
