"""The export for a paper: views and figures from one state of the warehouse, the methods section, and a manifest."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from prunescope.assets.planning.fingerprints import calibration_hash
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.corpora.hub_datasets import PREFIX
from prunescope.pipelines.corpora.text_sources import CORPORA, text_hash
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.pipelines.studies import Study, load_study, study_names
from prunescope.warehouse.catalogue.database import PROVENANCE, connected, view_sql
from prunescope.warehouse.catalogue.lineage import reading, stands_on
from prunescope.warehouse.catalogue.scope import narrow
from prunescope.warehouse.catalogue.view import View
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.limits import MAX_ROWS
from prunescope.warehouse.export.bundle import ExportFolder
from prunescope.warehouse.export.index_page import index_page
from prunescope.warehouse.export.methods_section import methods
from prunescope.warehouse.export.printed_tables import table_files
from prunescope.warehouse.export.table_cells import RenderedTable
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.tables import TABLES


@dataclass(frozen=True)
class ExportResult:
    """The files of an export.

    Attributes:
        items: views and figures with files.
        files: the files, the manifest last.
        empty: views and figures without a row, which have no files.
        cut: views of which only the first rows were exported.
        removed: names of files of an earlier export in the folder that this one does not have.
    """

    items: list[str]
    files: tuple[Path, ...]
    empty: list[str]
    cut: list[str]
    removed: tuple[str, ...]


def export(
    root: Place,
    directory: Path,
    only: Sequence[str] = (),
    study: Study | None = None,
    progress: Progress = SILENT,
    *,
    all_rows: bool = False,
) -> ExportResult:
    """Write tables, figures, the methods section with its bibliography, a page with all of it, and a manifest.

    The directory is empty or new, or that of an earlier export, whose files are replaced. `only` has names of
    questions, marts, intermediate views and figures; all but the intermediate views are the default. A study restricts
    the export to its models and recipes. Without `all_rows`, views are cut after `MAX_ROWS`.

    Raises:
        WarehouseError: a name is unknown, nothing has a row, the folder has other files, or it cannot be written.
    """
    all_views = view_sql()
    views = {name: view for name, view in all_views.items() if view.layer != "staging"}
    chosen = _chosen(only, views)
    # Entries of the manifest, tables for the page, and the variants that the export uses.
    entries: dict[str, dict[str, Any]] = {}
    previews: dict[str, RenderedTable | None] = {}
    used: set[tuple[str, str]] = set()
    with ExportFolder(directory) as folder, connected(root) as connection:
        # With one thread sums have one order, so the last digits are the same every time.
        connection.execute("SET threads = 1")
        if study is not None:
            narrow(connection, [model.name for model in study.models], [recipe.name for recipe in study.recipes])
        of_study = "" if study is None else f" of study {study.name}"
        nothing = WarehouseError(
            f"nothing to export: {root} has no row of {', '.join(only) or 'any table or figure'}{of_study}; run a "
            "study that gives some, such as `prunescope run demo`"
        )
        source = PROVENANCE if study is None else "variants"
        if not connection.execute(f"FROM {source} LIMIT 1").fetchall():
            raise nothing
        variants = connection.execute(
            "SELECT DISTINCT table_name, model, recipe FROM provenance WHERE recipe IS NOT NULL"
        ).fetchall()
        noise = {recipe for (recipe,) in connection.execute("SELECT DISTINCT recipe FROM noise_variants").fetchall()}
        progress.start("tables and figures", len(chosen))
        for name in chosen:
            if name in views:
                exported = table_files(connection, views[name], None if all_rows else MAX_ROWS)
                frame, files, previews[name] = pl.DataFrame(exported.rows), exported.contents, exported.preview
                entries[name] = {
                    "kind": views[name].layer,
                    "caption": exported.caption,
                    "sql": views[name].sql,
                    "is_empty": not exported.rows_of_view,
                    "is_cut": exported.rows_of_view > exported.rows.num_rows,
                    "rows_of_view": exported.rows_of_view,
                }
                read = stands_on([name], all_views)
            else:
                frame, files = _figure_files(connection, FIGURES[name])
                about = {"kind": "figure", "caption": FIGURES[name].caption, "sql": FIGURES[name].query}
                entries[name] = about | {"is_empty": frame.is_empty()}
                read = set(reading(FIGURES[name].query).tables)
            for file, content in files.items():
                folder.add(file, content)
            entries[name] |= {"rows": frame.height, "columns": frame.columns, "files": [*files]}
            entries[name]["tables"] = [table for table in TABLES if table in read]
            used |= _named(frame) | _unnamed(frame, read, variants, noise)
            progress.advance()
        progress.done()
        if all(entry["is_empty"] for entry in entries.values()):
            raise nothing
        tables = sorted({table for entry in entries.values() for table in entry["tables"]})
        corpora = {text_hash(name, "corpus"): name for name in CORPORA}
        known = _calibrations(connection, study)
        section = methods(connection, used, tables, version("prunescope"), known, corpora)
        folder.add("methods.md", section.markdown.encode())
        folder.add("methods.tex", section.latex.encode())
        folder.add("references.bib", section.bibtex.encode())
        folder.add("index.html", index_page(entries, previews, section.markdown))
        paths = folder.finish(
            {
                "prunescope": version("prunescope"),
                "study": None if study is None else study.name,
                "contents": entries,
                "provenance": _provenance(connection, tables, used),
            }
        )
    empty, cut = ([name for name in chosen if entries[name].get(key)] for key in ("is_empty", "is_cut"))
    return ExportResult([name for name in chosen if name not in empty], paths, empty, cut, folder.removed)


def _chosen(only: Sequence[str], views: Mapping[str, View]) -> list[str]:
    """Return the names to export in the order of the manifest; questions may be given by their number."""
    numbers = {name.partition("_")[0]: name for name, view in views.items() if view.layer == "questions"}
    default = [*(name for name, view in views.items() if view.layer != "intermediate"), *FIGURES]
    names = [numbers.get(name, name) for name in only] or default
    if unknown := [name for name in names if name not in views and name not in FIGURES]:
        table = next((name for name in unknown if name in TABLES), None)
        hint = did_you_mean(unknown[0], [*numbers, *views, *FIGURES])
        if table is not None:
            hint = f"{table} is a table, which `prunescope sql 'from {table}' -o {table}.parquet` writes whole; "
        raise WarehouseError(
            f"there is no question, mart or figure {', '.join(unknown)}; {hint}see `prunescope tables`, "
            f"figures are {', '.join(FIGURES)}"
        )
    return sorted(set(names))


def _figure_files(connection: duckdb.DuckDBPyConnection, figure: Figure) -> tuple[pl.DataFrame, dict[str, bytes]]:
    """Return the rows of a figure and its files; like a table without rows, it then has none."""
    from prunescope.pipelines.reporting.charts.files import chart_files, print_files

    frame = pl.DataFrame(connection.sql(figure.query).to_arrow_table())
    files = dict[str, bytes]()
    for drawing in figure.draw_all(frame) if frame.height else ():
        files |= {f"{drawing.name}{suffix}": content for suffix, content in chart_files(drawing.specification).items()}
        for columns, ending in ((2, ""), (1, "-column")):
            with suppress(InputError):  # too wide for these columns
                pages = print_files(figure.printed(drawing, columns), "pdf")
                files |= {f"{drawing.name}{ending}{page}.pdf": content for page, content in pages.items()}
    return frame, files


def _named(frame: pl.DataFrame) -> set[tuple[str, str]]:
    """Return the variants that the rows name; a row may refer to a second one: other_recipe, baseline_recipe."""
    recipes = [name for name in frame.columns if "model" in frame.columns and f"_{name}".endswith("_recipe")]
    pairs = (frame.select(pl.col("model", column).cast(pl.String)).drop_nulls() for column in recipes)
    return {pair for rows in pairs for pair in rows.unique().iter_rows()}


def _unnamed(
    frame: pl.DataFrame, read: set[str], variants: Sequence[tuple[str, str, str]], noise: set[str]
) -> set[tuple[str, str]]:
    """Return the variants that the rows depend on without naming them: dense, noise, and aggregated ones."""
    models = set(frame["model"].cast(pl.String)) if "model" in frame.columns else set()
    return {
        (model, recipe)
        for table, model, recipe in variants
        if table in read
        and model in models
        and ("recipe" not in frame.columns or recipe == "dense" or (recipe in noise and "noise_variants" in read))
    }


def _calibrations(connection: duckdb.DuckDBPyConnection, study: Study | None) -> dict[str, dict[str, Any]]:
    """Return the calibrations behind the warehouse's hashes, as far as an available study has the same hash."""
    names = {name for (name,) in connection.execute("SELECT DISTINCT study FROM provenance").fetchall()}
    available = [load_study(name) for name in study_names() if name in names] + ([study] if study else [])
    calibrations = {}
    own = [recipe.calibration for known in available for recipe in known.recipes if recipe.calibration]
    for spec in [*(known.calibration for known in available), *own]:
        if not spec.source.startswith(PREFIX):  # else its contents would have to be downloaded
            with suppress(InputError):  # its file is gone
                calibrations[calibration_hash(spec)] = spec.model_dump() | {"source": Path(spec.source).name}
    return calibrations


def _provenance(
    connection: duckdb.DuckDBPyConnection, tables: Sequence[str], used: set[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Return the provenance of every partition that the export depends on."""
    partitions = connection.sql(
        "SELECT table_name, model, recipe, fingerprint, study, code_version, device, dtype, seed, inputs_json, "
        "libraries_json FROM provenance ORDER BY ALL"
    ).to_arrow_table()
    pairs = {*used, *((model, None) for model, _ in used)}
    rows = (row for row in partitions.to_pylist() if row["table_name"] in tables)
    return [row for row in rows if not used or (row["model"], row["recipe"]) in pairs]
