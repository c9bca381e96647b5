"""The resources of the assets: the study as run configuration, and the warehouse.

The UI shows run configuration and executes it again. What it leaves empty is looked up when a run starts: the study in
the watch list and earlier runs, the warehouse in an environment variable.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import duckdb
import polars as pl
from dagster import ConfigurableResource, DagsterInstance, InitResourceContext, RunsFilter
from pydantic import Field, PrivateAttr

from prunescope.assets.execution.signals import end_with_parent
from prunescope.assets.instance import settings
from prunescope.assets.instance.instance import STUDY_TAG, writer_lock
from prunescope.assets.planning.freshness import table_partitions
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.publishing.explorer_data import asking
from prunescope.assets.watching.watch_list import request_for
from prunescope.pipelines.reporting.charts.figure_cache import FigureCache
from prunescope.pipelines.reporting.explorer.query_cache import Ask
from prunescope.pipelines.studies import Study
from prunescope.warehouse.catalogue.database import connect, connected
from prunescope.warehouse.catalogue.scope import is_whole, narrow
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

# Runs that are searched for one with a partition.
_MAX_RUNS = 100


class StudyResource(ConfigurableResource):
    """The study of a run, with replacements as on the command line."""

    study: str = Field(
        default="",
        description="Name of a shipped study, or path of a YAML file. If empty: a watched study that names the run's "
        "partition, preferably the one that computed it; else the study that computed it, with the settings of its "
        "last run; else demo. Programs run only if this run allows it.",
    )
    models: list[str] = Field(
        default=[], description="Models that replace the study's: a folder, a .gguf file, a hub id, or NAME=SOURCE."
    )
    recipes: list[str] = Field(default=[], description="Recipes that replace the study's; `dense` always stays.")
    allow_code_execution: bool = Field(
        default=False, description="Whether programs that variants write for tasks may run, in a sandbox."
    )
    allow_python: bool = Field(
        default=False, description="Whether methods in Python files may run, with all rights of this process."
    )
    added: list[str] = Field(default=[], description="Models in addition to the study's, written like `models`.")
    search: str = Field(default="", description="Keys that replace those of the study's `search`, as JSON.")

    @staticmethod
    def config_of(request: StudyRequest) -> dict[str, object]:
        """Return the resource's configuration for a request."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(request).items()}

    @classmethod
    def of_run(cls, run_config: Mapping[str, Any]) -> StudyRequest | None:
        """Return the request in a run's configuration; None if that names no study."""
        given = run_config.get("resources", {}).get("study", {}).get("config", {})
        if not given.get("study"):
            return None
        return StudyRequest(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})

    def request(
        self,
        store: Store,
        instance: DagsterInstance | None = None,
        model: str | None = None,
        recipe: str | None = None,
        table: str | None = None,
    ) -> StudyRequest:
        """Return the run's request.

        `model` and `recipe` are those of its partition, `table` is one that it computes; None without a partition.

        If this resource names no study, the watch list of the store does, else an earlier run of the instance.

        Raises:
            InputError: no study is named, and the one that computed the partition has no file; or the watch list is not
                valid.
        """

        def last_request(study: str | None) -> StudyRequest | None:
            tags = {} if study is None else {STUDY_TAG: study}
            for run in instance.get_runs(RunsFilter(tags=tags), limit=_MAX_RUNS) if instance else ():
                # Runs that were started in the UI name no study. If the file of a study is gone, that is an error: an
                # older run may have used other settings.
                if (request := StudyResource.of_run(run.run_config)) is not None:
                    asked = request.load()
                    has_recipe = recipe in {None, *(own.name for own in asked.recipes)}
                    if has_recipe and model in {None, *(own.name for own in asked.models)}:
                        return request
            return None

        base = StudyRequest(self.study) if self.study else request_for(store, model, recipe, last_request, table)
        return replace(
            base,
            models=tuple(self.models) or base.models,
            recipes=tuple(self.recipes) or base.recipes,
            allow_code_execution=self.allow_code_execution,
            allow_python=self.allow_python,
            added=(*base.added, *self.added),
            search=self.search or base.search,
        )


class WarehouseResource(ConfigurableResource):
    """The warehouse of results."""

    root: str = Field(default="", description="Folder or URL; empty: PRUNESCOPE_WAREHOUSE, else warehouse/data.")

    _connection: duckdb.DuckDBPyConnection | None = PrivateAttr(default=None)
    _ask: Ask | None = PrivateAttr(default=None)
    # Those that the open catalogue shows.
    _partitions: dict[str, str] | None = PrivateAttr(default=None)
    _figures: FigureCache | None = PrivateAttr(default=None)

    def store(self) -> Store:
        """Return the Parquet store."""
        return Store(settings.warehouse_root(self.root or None))

    @contextmanager
    def locked(self, log: Callable[[str], None]) -> Iterator[Store]:
        """Hold the writer lock; `log` receives whom this run waits for."""
        store = self.store()
        with writer_lock(store.local(settings.cache_folder()), log, store.url):
            yield store

    def ask(self, query: str) -> pl.DataFrame:
        """Run one of the package's own queries; all queries of a run see the same state of the warehouse.

        Raises:
            WarehouseError: the views cannot be built, or a file is damaged.
        """
        if self._ask is None:
            self._partitions = table_partitions(self.store(), TABLES)
            self._connection = connect(self.store().root)
            self._ask = asking(self._connection)
        return self._ask(query)

    def figures(self) -> FigureCache:
        """Return the figures of the whole warehouse; each is queried and drawn once per run."""
        if self._figures is None:
            self._figures = FigureCache(self.ask)
        return self._figures

    def setup_for_execution(self, context: InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Make a run that a code server launched end with that server, since nothing could stop it afterwards."""
        if multiprocessing.parent_process() is not None:
            end_with_parent()

    def teardown_after_execution(self, context: InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Close the catalogue at the end of a run."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def only(self, study: Study) -> Iterator[tuple[duckdb.DuckDBPyConnection, Ask, FigureCache | None]]:
        """Open a catalogue that shows one study; yield it, what runs a query on it, and the study's figures, if drawn.

        Reuse the run's catalogue and its caches if the warehouse contains only this study and no partition has changed
        since the catalogue was opened; from then on it shows this study only. Otherwise open a new one.
        """
        models, recipes = [model.name for model in study.models], [recipe.name for recipe in study.recipes]
        whole = self._connection
        is_current = whole is not None and self._partitions == table_partitions(self.store(), TABLES)
        if whole and is_current and is_whole(whole, models, recipes):
            narrow(whole, models, recipes)
            self._partitions = None  # it does not show the whole warehouse any more
            yield whole, self.ask, self.figures()
            return
        with connected(self.store().root) as connection:
            narrow(connection, models, recipes)
            yield connection, asking(connection), None
