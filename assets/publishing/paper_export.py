"""An export for a paper: which views and figures, from one state of the warehouse, and what the hashes stand for.

Tables are typeset by `prunescope.warehouse.export`, figures drawn by `prunescope.pipelines.reporting.charts`; here they are only put together.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from prunescope.assets.planning.fingerprints import calibration_hash
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.corpora.hub_datasets import PREFIX
from prunescope.pipelines.corpora.text_sources import CORPORA, text_hash
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.studies import Study, load_study, study_names
from prunescope.warehouse.catalogue.database import FORMER_NAMES, View, connect, view_sql
from prunescope.warehouse.catalogue.lineage import reading
from prunescope.warehouse.catalogue.scope import narrow
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.limits import MOST_ROWS
from prunescope.warehouse.export.bundle import ExportFolder
from prunescope.warehouse.export.methods_section import Calibration, ProvenanceFacts, methods
from prunescope.warehouse.export.printed_tables import reads, stands_on, table_files
from prunescope.warehouse.storage.location import Place


@dataclass
class ExportResult:
    """What an export wrote.

    Attributes:
        directory: the folder.
        items: views and figures that it has files of.
        files: the files, the manifest last.
        empty: views and figures without a row, of which it has none.
        cut: views of which it has the first rows only.
    """

    directory: Path
    items: tuple[str, ...]
    files: tuple[Path, ...]
    empty: tuple[str, ...]
    cut: tuple[str, ...]


@dataclass
class _Contents:
    """What has been exported so far."""

    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, set[str]] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)

    def add(self, name: str, frame: pl.DataFrame, **told: object) -> None:
        self.told[name] = {"rows": frame.height, "columns": frame.columns, **told}
        if "model" not in frame.columns:
            return
        self.models[name] = set(frame["model"].cast(pl.String).drop_nulls())
        # A row may set a variant beside another one: other_recipe, baseline_recipe.
        for column in frame.columns:
            if column == "recipe" or column.endswith("_recipe"):
                pairs = frame.select(pl.col("model", column).cast(pl.String)).unique().drop_nulls()
                self.used.update(pairs.iter_rows())

    def add_behind(self, name: str, read: set[str], variants: Sequence[tuple[str, str, str]], noise: set[str]) -> None:
        """The variants that the rows stand on without naming them: the dense one, noise, and what was aggregated."""
        names_recipes = "recipe" in self.told[name]["columns"]
        for table, model, recipe in variants:
            is_behind = not names_recipes or recipe == "dense" or (recipe in noise and "noise_variants" in read)
            if is_behind and table in read and model in self.models.get(name, ()):
                self.used.add((model, recipe))


def export(
    root: Place,
    directory: Path,
    only: Sequence[str] = (),
    study: Study | None = None,
    progress: Progress = SILENT,
    *,
    all_rows: bool = False,
) -> ExportResult:
    """Writes tables, figures, the methods paragraph with its bibliography, and a manifest.

    Args:
        root: the warehouse.
        directory: an empty or new folder, or one that an earlier export made, whose files are then replaced.
        only: names of questions, marts, intermediate views and figures; all but the intermediate views where empty.
        study: restricts all of it to the study's models and recipes.
        progress: is told of every table and figure.
        all_rows: write views whole that have more rows than `MOST_ROWS`.

    Raises:
        WarehouseError: a name is unknown, nothing has a row, the folder holds something else, or it cannot be written.
    """
    below = view_sql()
    views = {name: view for name, view in below.items() if view.layer != "staging"}
    chosen = _chosen(only, views)
    contents = _Contents()
    with ExportFolder(directory) as folder, connect(root) as connection:
        # In one thread sums add up in one order, so the last digit is the same every time.
        connection.execute("SET threads = 1")
        if study is not None:
            narrow(connection, [model.name for model in study.models], [recipe.name for recipe in study.recipes])
            _require_any(connection, study)
        progress.start("tables and figures", len(chosen))
        for name in chosen:
            if name in views:
                _add_view(folder, connection, views[name], contents, None if all_rows else MOST_ROWS)
            else:
                _add_figure(folder, connection, name, contents)
            progress.advance()
        progress.done()
        if all(told["is_empty"] for told in contents.told.values()):
            raise WarehouseError(
                f"nothing to export: {root} has no row of {', '.join(only) or 'any table or figure'}; run a study that "
                "gives some, such as `prunescope run demo`"
            )
        variants = connection.execute(
            "SELECT DISTINCT table_name, model, recipe FROM provenance WHERE recipe IS NOT NULL"
        ).fetchall()
        noise = {recipe for (recipe,) in connection.execute("SELECT DISTINCT recipe FROM noise_variants").fetchall()}
        for name in chosen:
            found = reads([name], below) if name in views else reading(FIGURES[name].query).tables
            contents.told[name]["tables"] = list(found)
            contents.add_behind(name, stands_on([name], below) if name in views else set(found), variants, noise)
        tables = sorted({table for told in contents.told.values() for table in told["tables"]})
        known = ProvenanceFacts(_calibrations(connection, study), _corpora())
        section = methods(connection, contents.used, tables, known, version("prunescope"))
        folder.add("methods.md", section.markdown.encode())
        folder.add("methods.tex", section.latex.encode())
        folder.add("references.bib", section.bibtex.encode())
        files = folder.finish(
            {
                "prunescope": version("prunescope"),
                "study": None if study is None else study.name,
                "contents": contents.told,
                "provenance": _provenance(connection, tables, contents.used),
            }
        )
    empty, cut = (tuple(name for name in chosen if contents.told[name].get(is_so)) for is_so in ("is_empty", "is_cut"))
    return ExportResult(directory, tuple(name for name in chosen if name not in empty), files, empty, cut)


def _require_any(connection: duckdb.DuckDBPyConnection, study: Study) -> None:
    """Refuses a study of which the warehouse has nothing, whose tables would all be empty."""
    if not connection.execute("SELECT 1 FROM variants LIMIT 1").fetchall():
        known = connection.execute("SELECT DISTINCT model FROM all_variants ORDER BY model").fetchall()
        listed = ", ".join(model for (model,) in known) or "nothing yet"
        raise WarehouseError(
            f"the warehouse has no variant of study {study.name}, of models "
            f"{', '.join(model.name for model in study.models)}; it has {listed}: run the study first"
        )


def _chosen(only: Sequence[str], views: Mapping[str, View]) -> list[str]:
    """The names to export in the order of the manifest; a question may be called by its number."""
    numbers = {name.partition("_")[0]: name for name, view in views.items() if view.layer == "questions"}
    numbers |= FORMER_NAMES
    wanted = [numbers.get(name, name) for name in only] or [
        *(name for name, view in views.items() if view.layer != "intermediate"),
        *FIGURES,
    ]
    if unknown := [name for name in wanted if name not in views and name not in FIGURES]:
        raise WarehouseError(
            f"there is no question, mart or figure {', '.join(unknown)}; see `prunescope tables`, "
            f"figures are {', '.join(FIGURES)}"
        )
    return sorted(set(wanted))


def _add_view(
    folder: ExportFolder, connection: duckdb.DuckDBPyConnection, view: View, contents: _Contents, most: int | None
) -> None:
    made = table_files(connection, view, most)
    for name, content in made.contents.items():
        folder.add(name, content)
    is_cut = made.rows_of_view > made.rows.num_rows
    contents.add(
        view.name,
        pl.DataFrame(made.rows),
        kind=view.layer,
        caption=made.caption,
        sql=view.sql,
        files=[*made.contents],
        is_empty=not made.rows_of_view,
        is_cut=is_cut,
        rows_of_view=made.rows_of_view,
    )


def _add_figure(folder: ExportFolder, connection: duckdb.DuckDBPyConnection, name: str, contents: _Contents) -> None:
    from prunescope.pipelines.reporting.charts.files import chart_files

    figure = FIGURES[name]
    frame = pl.DataFrame(connection.sql(figure.query).to_arrow_table())
    files = []
    # One without rows has no file, as a table.
    for drawing in figure.draw_all(frame) if frame.height else ():
        for suffix, content in chart_files(drawing.specification).items():
            folder.add(f"{drawing.name}{suffix}", content)
            files.append(f"{drawing.name}{suffix}")
    contents.add(
        name, frame, kind="figure", caption=figure.caption, sql=figure.query, files=files, is_empty=frame.is_empty()
    )


def _calibrations(connection: duckdb.DuckDBPyConnection, study: Study | None) -> dict[str, Calibration]:
    """What the calibration hashes of the warehouse stand for, as far as a study at hand has the very same hash."""
    named = {name for (name,) in connection.execute("SELECT DISTINCT study FROM provenance").fetchall()}
    studies = [load_study(name) for name in study_names() if name in named] + ([study] if study else [])
    found = {}
    own = [recipe.calibration for one in studies for recipe in one.recipes if recipe.calibration]
    for spec in [*(one.calibration for one in studies), *own]:
        if spec.source.startswith(PREFIX):  # its contents lie on the network
            continue
        with suppress(InputError):  # a file that is no longer there proves nothing
            found[calibration_hash(spec)] = Calibration(
                Path(spec.source).name, spec.sequences, spec.length, spec.seed, spec.documents
            )
    return found


def _corpora() -> dict[str, str]:
    """Names of the texts that travel with the package by the hash that `text_tokens` has of them."""
    return {text_hash(name, "corpus"): name for name in CORPORA}


def _provenance(
    connection: duckdb.DuckDBPyConnection, tables: Sequence[str], used: set[tuple[str, str]]
) -> list[dict[str, Any]]:
    """What made every partition that the export stands on."""
    columns = "table_name, model, recipe, fingerprint, study, code_version, device, dtype, seed"
    rows = connection.execute(
        f"SELECT {columns}, inputs_json, libraries_json FROM provenance ORDER BY ALL"  # noqa: S608 - the line above
    ).fetchall()
    named = [dict(zip([*columns.split(", "), "inputs_json", "libraries_json"], row, strict=True)) for row in rows]
    models = {model for model, _ in used}
    return list(_relevant(named, set(tables), models, used))


def _relevant(
    rows: Sequence[dict[str, Any]], tables: set[str], models: set[str], used: set[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    for row in rows:
        is_used = row["model"] in models and (row["recipe"] is None or (row["model"], row["recipe"]) in used)
        if row["table_name"] in tables and (is_used or not used):
            yield row
