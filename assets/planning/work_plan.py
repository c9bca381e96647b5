"""The plan of a study: the partitions that it still has to compute, found from Parquet footers alone.

Without torch and Dagster, so that a run with nothing to do ends fast.
"""

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prunescope.assets.instance import settings
from prunescope.assets.planning import freshness
from prunescope.assets.planning.fingerprints import DenseModel, accepted, differences, inputs, variant_file
from prunescope.assets.planning.steps import SEARCH_TABLES, partition_tables
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.studies import Study, load_study
from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.path_names import path_safe
from prunescope.warehouse.storage.provenance import Provenance
from prunescope.warehouse.tables import TABLES


@dataclass(frozen=True)
class StudyRequest:
    """A study with the user's replacements.

    Attributes:
        study: name of a shipped study or path of a YAML file.
        models: models that replace the study's; empty keeps the study's.
        recipes: recipes that replace the study's; empty keeps the study's.
        allow_code_execution: whether programs that variants write for tasks may run.
        allow_python: whether methods in Python files may run.
        added: models in addition to the study's; study name and report stay the same.
        search: keys that replace those of the study's `search`, as JSON; empty keeps it.
    """

    study: str
    models: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    allow_code_execution: bool = False
    added: tuple[str, ...] = ()
    search: str = ""
    allow_python: bool = False

    def load(self) -> Study:
        """Load and check the study; raise InputError if it is not valid."""
        study = load_study(self.study)
        # `replaced` always keeps `dense`, the reference of every other variant.
        if self.search:
            study = study.searching(json.loads(self.search))
        chosen = study.replaced(list(self.models), list(self.recipes) or [recipe.name for recipe in study.recipes])
        allowed = {"allow_code_execution": self.allow_code_execution, "allow_python": self.allow_python}
        return chosen.extended(self.added).model_copy(update=allowed)


@dataclass(frozen=True)
class PartitionWork:
    """One partition with its tables to compute.

    Attributes:
        recipe: the recipe; None for a model's own tables.
        tables: the missing or stale tables, in the order of the data flow.
    """

    model: str
    recipe: Recipe | None
    tables: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return `model`, `model search` or `model@recipe`."""
        if self.recipe is not None:
            return f"{self.model}@{self.recipe.name}"
        return f"{self.model} search" if self.is_search else self.model

    @property
    def is_search(self) -> bool:
        """Return whether all of its tables are a search's."""
        return bool(self.tables) and set(self.tables) <= set(SEARCH_TABLES)


@dataclass(frozen=True)
class Plan:
    """All work of a study.

    Attributes:
        works: partitions with stale tables; of each model its own tables, its variants, then its search.
        is_report_stale: whether to write the report again; true if any partition is computed, false if no report was
            requested.
        unread: number of current partitions that were kept without reading them, as on an object store.
    """

    works: Sequence[PartitionWork] = ()
    is_report_stale: bool = False
    unread: int = 0

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing to do."""
        return not (self.works or self.is_report_stale)


def model_work(
    study: Study,
    store: Store,
    dense: DenseModel,
    files: VerifiedFiles,
    *,
    replace: bool = False,
    tables: Collection[str] | None = None,
    of_others: dict[str | None, str] | None = None,
) -> list[PartitionWork]:
    """Return the work of a model, its variants and its search; work without tables is current.

    Compare the footers of its partitions with the study's present inputs, and their bytes with their seals. With
    `replace`, partitions that another study computed from other inputs are recomputed instead of refused. `tables`
    leaves out all other tables. `of_others` receives by recipe (None: the model) the study whose partition is in the
    way, instead of an error.

    Raises:
        InputError: another study's partition is in the way.
        WarehouseError: the warehouse cannot be read.
    """
    works, search = [], list[str]()
    for recipe in (None, *study.recipes):
        stale, name = list[str](), recipe.name if recipe else None
        for table in partition_tables(study, recipe):
            if tables is not None and table not in tables:
                continue
            is_damaged = files.is_damaged(store.path(TABLES[table], dense.spec.name, name))
            is_current = not is_damaged and freshness.is_current(store, table, study, dense, recipe)
            if table == "variants" and recipe is not None:
                is_current = is_current and (store.root / variant_file(study, dense, recipe)).is_file()
            # A search keeps the rows of other studies' searches.
            is_kept = not (is_current or is_damaged or replace or table in SEARCH_TABLES)
            other = _of_other_study(study, store, table, dense, recipe) if is_kept else None
            if other is not None and of_others is None:
                raise _conflict(study, store, table, dense, recipe, other)
            if other is not None and of_others is not None:
                of_others[name] = other.study
            elif not is_current:
                (search if table in SEARCH_TABLES else stale).append(table)
        works.append(PartitionWork(dense.spec.name, recipe, tuple(stale)))
    return [*works, PartitionWork(dense.spec.name, None, tuple(search))] if search else works


def unfinished_folder(store: Store, model: str) -> Path:
    """Return the local folder that keeps the pruned layers of a model's variants until the variants are complete."""
    return store.local(settings.cache_folder()) / "_unfinished" / path_safe(model)


def _of_other_study(
    study: Study, store: Store, table: str, dense: DenseModel, recipe: Recipe | None
) -> Provenance | None:
    """Return the provenance of a partition that another study computed from other inputs."""
    try:
        found = store.provenance(TABLES[table], dense.spec.name, recipe.name if recipe else None)
    except DamagedFileError:
        return None
    if found is None or found.study == study.name:
        return None
    return None if found.fingerprint in accepted(table, study, dense.identity, recipe) else found


def _conflict(
    study: Study, store: Store, table: str, dense: DenseModel, recipe: Recipe | None, found: Provenance
) -> InputError:
    """Return the error that names the inputs by which a partition of another study differs."""
    partition = f"{dense.spec.name}@{recipe.name}" if recipe else dense.spec.name
    before, now = found.inputs, inputs(table, study, dense.identity, recipe)
    if recipe is not None and before.get("recipe_hash") != now.get("recipe_hash"):
        with suppress(DamagedFileError):  # the hashes of both recipes tell less
            [row] = store.read(TABLES["variants"], dense.spec.name, recipe.name).to_pylist()
            before, now = (
                {key: value for key, value in one.items() if key != "recipe_hash"}
                | {f"`{key}` of the recipe": json.dumps(value) for key, value in json.loads(parameters).items()}
                for one, parameters in ((before, row["parameters_json"]), (now, recipe.parameters_json))
            )
    # Without a difference that is known, only the fingerprints differ.
    changed = f" ({told})" if (told := differences(before, now)) else ""
    return InputError(
        f"{table} of {partition} was computed by study {found.study!r} from other inputs{changed}; "
        "use --replace to compute it again for this study, or another --warehouse"
    )
