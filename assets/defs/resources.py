"""What an asset needs beside its partition: the study as run configuration, and the warehouse.

Run configuration is what the UI shows and executes again, so all that a run depends on stands there.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import polars as pl
from dagster import ConfigurableResource, InitResourceContext
from pydantic import Field, PrivateAttr

from prunescope.assets import settings
from prunescope.assets.execution.signals import end_with_parent
from prunescope.assets.planning.answer_version import partitions
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.publishing.explorer_data import asking
from prunescope.assets.watching.watch_list import request_for
from prunescope.pipelines.reporting.charts.figure_cache import FigureCache
from prunescope.pipelines.studies import Study
from prunescope.warehouse.catalogue.database import connect
from prunescope.warehouse.catalogue.scope import is_whole, narrow
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

Ask = Callable[[str], pl.DataFrame]


class StudyResource(ConfigurableResource):
    """Which study, with the command line's replacements."""

    study: str = Field(
        default="",
        description="Name of a shipped study, or the path of a YAML file; empty: the watched study that names the "
        "run's partition, else the one that computed it before, as it was asked for then (programs run only where "
        "this run allows it), else demo.",
    )
    models: list[str] = Field(
        default=[], description="Models in place of the study's: a folder, a .gguf file, a hub id, or NAME=SOURCE."
    )
    recipes: list[str] = Field(default=[], description="Recipes in place of the study's; `dense` always stays.")
    allow_code_execution: bool = Field(
        default=False, description="Whether programs that variants write for tasks may run, locked up."
    )
    added: list[str] = Field(default=[], description="Models beside the study's, written like `models`.")

    @staticmethod
    def config_of(request: StudyRequest) -> dict[str, object]:
        """The resource's configuration for a request."""
        return {
            "study": request.study,
            "models": list(request.models),
            "recipes": list(request.recipes),
            "allow_code_execution": request.allow_code_execution,
            "added": list(request.added),
        }

    @classmethod
    def of_run(cls, run_config: Mapping[str, Any]) -> StudyRequest | None:
        """What a run was asked for by its configuration; None where that names no study."""
        told = cls(**run_config.get("resources", {}).get("study", {}).get("config", {}))
        asked = (tuple(told.models), tuple(told.recipes), told.allow_code_execution, tuple(told.added))
        return StudyRequest(told.study, *asked) if told.study else None

    def request(
        self,
        store: Store,
        model: str | None = None,
        recipe: str | None = None,
        remembered: Callable[[str], StudyRequest | None] = lambda _: None,
    ) -> StudyRequest:
        """What is asked for.

        Args:
            store: the warehouse, whose watch list says which study is meant where none is named.
            model: of the run's partition, if it has one.
            recipe: of the run's partition, if it has one.
            remembered: as `request_for`.

        Raises:
            InputError: no study is named and none can be found, or the watch list is not valid.
        """
        found = StudyRequest(self.study) if self.study else request_for(store, model, recipe, remembered)
        return replace(
            found,
            models=tuple(self.models) or found.models,
            recipes=tuple(self.recipes) or found.recipes,
            allow_code_execution=self.allow_code_execution,
            added=(*found.added, *self.added),
        )


@dataclass(frozen=True)
class OneStudy:
    """A catalogue as if the warehouse held one study's models and recipes and nothing else.

    Attributes:
        connection: the open catalogue.
        ask: the rows of a query on it.
        drawn: the study's figures, where they are drawn already.
    """

    connection: duckdb.DuckDBPyConnection
    ask: Ask
    drawn: FigureCache | None


class WarehouseResource(ConfigurableResource):
    """Where results are kept."""

    root: str = Field(default="", description="Folder or URL; empty: PRUNESCOPE_WAREHOUSE, else warehouse/data.")

    _connection: duckdb.DuckDBPyConnection | None = PrivateAttr(default=None)
    _asking: Ask | None = PrivateAttr(default=None)
    _is_narrow: bool = PrivateAttr(default=False)
    _partitions: dict[str, str] = PrivateAttr(default={})
    _drawn: FigureCache | None = PrivateAttr(default=None)

    def store(self) -> Store:
        """The Parquet store."""
        return Store(settings.warehouse_root(self.root or None))

    def ask(self, query: str) -> pl.DataFrame:
        """The rows of one of our own queries, all in one run of the same state of the warehouse.

        Raises:
            WarehouseError: the views cannot be built, or a file is damaged.
        """
        if self._asking is None:
            self._partitions = partitions(self.store(), TABLES)
            self._connection = connect(self.store().root)
            self._asking = asking(self._connection)
        return self._asking(query)

    def drawn(self) -> FigureCache:
        """The figures of the whole warehouse, in one run each asked and drawn once."""
        if self._drawn is None:
            self._drawn = FigureCache(self.ask)
        return self._drawn

    def setup_for_execution(self, context: InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Lets a run that a code server has started end with that server: nobody could stop it any more."""
        if multiprocessing.parent_process() is not None:
            end_with_parent()

    def teardown_after_execution(self, context: InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Closes the catalogue at the end of a run."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def only(self, study: Study) -> Iterator[OneStudy]:
        """Open a catalogue that shows one study.

        It is that of the run, with what the run has computed and drawn, where the warehouse holds nothing but the study
        and no partition was written since; the run then asks nothing more of the whole warehouse.
        """
        models, recipes = [model.name for model in study.models], [recipe.name for recipe in study.recipes]
        whole = self._connection
        is_current = whole and not self._is_narrow and self._partitions == partitions(self.store(), TABLES)
        if whole and is_current and is_whole(whole, models, recipes):
            narrow(whole, models, recipes)
            self._is_narrow = True
            yield OneStudy(whole, self.ask, self.drawn())
            return
        with connect(self.store().root) as connection:
            narrow(connection, models, recipes)
            yield OneStudy(connection, asking(connection), None)
