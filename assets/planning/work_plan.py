"""What a study still has to compute, found from footers alone. No torch and no Dagster: with nothing to do it is fast.

Also the place where one study refuses to overwrite what another one computed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prunescope.assets import settings
from prunescope.assets.planning import answer_version
from prunescope.assets.planning.fingerprints import (
    MODEL_TABLES,
    DenseModel,
    accepted,
    find_model,
    variant_file,
    variant_tables,
)
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.studies import Study, load_study
from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.path_names import path_safe
from prunescope.warehouse.tables import TABLES

# The last line of a report is this mark and the version of what it shows.
REPORT_MARK = "<!-- prunescope version "


@dataclass(frozen=True)
class StudyRequest:
    """What a user asks for.

    Attributes:
        study: name of a shipped study or path of a YAML file.
        models: in place of the study's; none keeps them.
        recipes: in place of the study's; none keeps them.
        allow_code_execution: whether programs that variants write for tasks may run.
        added: models beside the study's, which keeps its name and its report.
    """

    study: str
    models: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    allow_code_execution: bool = False
    added: tuple[str, ...] = ()

    def load(self) -> Study:
        """Reads and checks the study; InputError where it is not valid."""
        study = load_study(self.study)
        # Naming the recipes always keeps `dense`, which every other variant is measured against.
        chosen = study.replaced(list(self.models), list(self.recipes) or [recipe.name for recipe in study.recipes])
        return chosen.extended(self.added).model_copy(update={"allow_code_execution": self.allow_code_execution})


@dataclass(frozen=True)
class PartitionWork:
    """One partition with tables to compute.

    Attributes:
        model: name of the model.
        recipe: the recipe; None for a model's own tables.
        tables: those that are missing or stale, in the order of the data flow.
    """

    model: str
    recipe: Recipe | None
    tables: tuple[str, ...]

    @property
    def name(self) -> str:
        """`model` or `model@recipe`."""
        return f"{self.model}@{self.recipe.name}" if self.recipe else self.model


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        study: the study.
        models: model partitions with stale tables.
        variants: variant partitions with stale tables, grouped by model.
        is_report_stale: whether the report is older than what it stands on; true where anything is computed, false
            where no report is wanted.
    """

    study: Study
    models: Sequence[PartitionWork] = field(default=())
    variants: Sequence[PartitionWork] = field(default=())
    is_report_stale: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.models or self.variants or self.is_report_stale)


def make_plan(
    study: Study,
    store: Store,
    cache: Path,
    progress: Progress,
    *,
    replace: bool = False,
    tables: Collection[str] | None = None,
    without: Collection[str] = (),
) -> Plan:
    """Compares footers with what the study would give now.

    Args:
        study: the study.
        store: the warehouse.
        cache: folder for fetched and converted models.
        progress: told about fetching and converting.
        replace: recompute partitions that another study computed from other inputs, instead of refusing.
        tables: only these are brought up to date, and no report; None for all of the study.
        without: models of the study that are left as they are.

    Raises:
        InputError: a model cannot be found, or another study's partition is in the way.
        WarehouseError: the warehouse cannot be read.
    """
    works = [
        work
        for spec in study.models
        if spec.name not in without
        for work in model_work(
            study, store, find_model(study, spec.name, cache, progress), replace=replace, tables=tables
        )
        if work.tables
    ]
    models = [work for work in works if work.recipe is None]
    variants = [work for work in works if work.recipe is not None]
    if tables is not None:
        return Plan(study, models, variants)
    computes = bool(models or variants)
    return Plan(
        study,
        models,
        variants,
        computes or report_fingerprint(store, study) != answer_version.report_version(store, study),
    )


def model_work(
    study: Study, store: Store, dense: DenseModel, *, replace: bool = False, tables: Collection[str] | None = None
) -> list[PartitionWork]:
    """A model's partition and those of its variants, current ones too; arguments and errors as `make_plan`."""
    return [_work(study, store, dense, recipe, replace=replace, tables=tables) for recipe in (None, *study.recipes)]


def unfinished_folder(store: Store, model: str) -> Path:
    """Where the finished layers of a model's variants are kept until these are whole; always on this machine."""
    return store.local(settings.cache_folder()) / "_unfinished" / path_safe(model)


def report_file(study: Study) -> str:
    """Place of a study's report in the warehouse."""
    return f"_reports/{study.name}{'-' if study.subset else ''}{study.subset}.html"


def report_fingerprint(store: Store, study: Study) -> str | None:
    """The version that the report carries in its last line; None where there is no report."""
    path = store.root / report_file(study)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200))
        last = file.read().decode(errors="replace")
    return last.rpartition(REPORT_MARK)[2].removesuffix(" -->\n") or None


def _work(
    study: Study,
    store: Store,
    dense: DenseModel,
    recipe: Recipe | None,
    *,
    replace: bool,
    tables: Collection[str] | None,
) -> PartitionWork:
    name = recipe.name if recipe else None
    stale = []
    for table in MODEL_TABLES if recipe is None else variant_tables(study):
        if tables is not None and table not in tables:
            continue
        wanted = accepted(table, study, dense.identity, recipe)
        current = any(store.is_current(TABLES[table], dense.spec.name, name, each) for each in wanted)
        if table == "variants" and recipe is not None:
            current = current and (store.root / variant_file(study, dense, recipe)).is_file()
        if not current:
            if not replace:
                _refuse_to_overwrite(study, store, table, dense, recipe)
            stale.append(table)
    return PartitionWork(dense.spec.name, recipe, tuple(stale))


def _refuse_to_overwrite(study: Study, store: Store, table: str, dense: DenseModel, recipe: Recipe | None) -> None:
    """What another study computed from other inputs is not ours to replace unasked."""
    model, name = dense.spec.name, recipe.name if recipe else None
    try:
        found = store.provenance(TABLES[table], model, name)
    except DamagedFileError:
        return
    wanted = accepted(table, study, dense.identity, recipe)
    if found is not None and found.study != study.name and found.fingerprint not in wanted:
        partition = model if name is None else f"{model}@{name}"
        raise InputError(
            f"{table} of {partition} was computed by study {found.study!r} from other inputs; "
            "use --replace to compute it again for this study, or another --warehouse"
        )
