"""A study in the present state of the warehouse: its page, its documents, and what users' SQL may read."""

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

import duckdb

from prunescope.assets.planning.freshness import warehouse_version
from prunescope.assets.publishing.explorer_data import asking, documents
from prunescope.assets.watching.watch_list import load_watch_state
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.reporting.explorer.page import render
from prunescope.pipelines.reporting.explorer.query_cache import Document
from prunescope.pipelines.studies import Study, load_study, study_names
from prunescope.warehouse.catalogue.database import connect, connected
from prunescope.warehouse.catalogue.scope import narrow
from prunescope.warehouse.catalogue.sql_process import Setup
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.snapshot import damage_explained

_MAX_ANSWERS = 64


def studies(root: Place, named: str | None = None) -> dict[str, "LiveStudy"]:
    """Find the studies with variants in the warehouse, or the one of this name or YAML file.

    Returns:
        The studies by name. A study whose file is unknown contains only the variants already computed.

    Raises:
        InputError: the warehouse has no variant, or none of that study; or the file is not a valid study.
        WarehouseError: the warehouse cannot be read.
    """
    with connected(root) as connection:
        computed = _computed(connection)
        is_searched = bool(connection.execute("SELECT count(*) > 0 FROM search_trials").fetchall()[0][0])
    watch = load_watch_state(Store(root))
    known: dict[str, Study | None] = {watched.study.name: watched.study for watched in watch.studies}
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
        none = "no study has run yet; start one with `prunescope run demo`"
        if is_searched:
            none = "only searches have run: `prunescope search` without --no-judge measures what they found"
        present = f"{did_you_mean(named or '', computed)}there are {', '.join(computed)}" if computed else none
        what = "any study" if named is None else f"study {named!r}"
        raise InputError(f"the warehouse {root} has no variant of {what}; {present}")
    return {name: LiveStudy(root, name, study) for name, study in found.items()}


def _computed(connection: duckdb.DuckDBPyConnection) -> dict[str, set[tuple[str, str]]]:
    """Return the (model, recipe) pairs of the variants that each study computed."""
    query = "SELECT DISTINCT study, model, recipe FROM provenance WHERE table_name = 'variants' ORDER BY ALL"
    computed: dict[str, set[tuple[str, str]]] = {}
    with damage_explained(connection):
        for study, model, recipe in connection.execute(query).fetchall():
            computed.setdefault(study, set()).add((model, recipe))
    return computed


def _scope(
    computed: Mapping[str, set[tuple[str, str]]], name: str, study: Study | None
) -> tuple[set[str], set[str]] | None:
    """Return the models and recipes of a study; None if the warehouse has no variant of them from any study."""
    variants = computed.get(name, set())
    models, recipes = {model for model, _ in variants}, {recipe for _, recipe in variants}
    if study is not None:
        models |= {model.name for model in study.models}
        recipes |= {recipe.name for recipe in study.recipes}
    has_any = any(model in models and recipe in recipes for pairs in computed.values() for model, recipe in pairs)
    return (models, recipes) if has_any else None


class StudyRegistry:
    """The studies that a server shows, by name in `known`; new ones are found while the server runs."""

    def __init__(self, root: Place, named: str | None = None) -> None:
        """Find the studies; arguments and errors as in `studies`."""
        self._root, self._is_one = root, named is not None
        self.known = studies(root, named)

    def now(self) -> Mapping[str, "LiveStudy"]:
        """Look for new studies; return them and those that were found before; raise WarehouseError as `studies`."""
        if not self._is_one:
            with suppress(InputError):  # no variant is left, as after `gc`; the known studies report that
                self.known = studies(self._root) | self.known
        return self.known


class LiveStudy:
    """One study in the present state of the warehouse; several threads may use it.

    Every method raises WarehouseError if the warehouse cannot be read.
    """

    def __init__(self, root: Place, name: str, study: Study | None) -> None:
        """Store the warehouse and the study, None if its file is unknown; read nothing."""
        self._root, self._name, self._study = root, name, study
        self._state: _State | None = None
        self._lock = threading.Lock()

    def build(self, name: str) -> Document:
        """Build a document of the present state; raise InputError if there is none of this name."""
        with self._lock:
            try:
                return self._now().documents.build(name)
            except KeyError as error:
                raise InputError(f"there is no document {name!r}") from error

    def sql_setup(self, gibibytes: float) -> Setup:
        """Return what a process for users' SQL may read, which is only this study; `gibibytes` is its memory limit."""
        with self._lock:
            return Setup(str(self._root), gibibytes, scope=self._now().scope)

    def page(self) -> str:
        """Return the page in the present state of the warehouse."""
        return render({"index": self.build("index")}, live=True)

    def document(self, name: str) -> str:
        """Return a document as JSON; errors are those of `build`."""
        return json.dumps(self.build(name), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def _now(self) -> "_State":
        """Return the present state of the warehouse; the previous one if no file has changed."""
        version = warehouse_version(Store(self._root))
        if self._state is None or self._state.version != version:
            self._state = _State(self._root, self._name, self._study, version)
        return self._state


class _State:
    """The documents of one state of the warehouse, whose files stay open."""

    def __init__(self, root: Place, name: str, study: Study | None, version: str) -> None:
        self.version = version
        connection = connect(root)
        models, recipes = _scope(_computed(connection), name, study) or (set(), set())
        self.scope = frozenset(models), frozenset(recipes)
        narrow(connection, models, recipes)
        # Answers of one state never change, and many documents share queries.
        ask = lru_cache(_MAX_ANSWERS)(asking(connection))
        self.documents = documents(study or name, connection, ask, is_live=True)
