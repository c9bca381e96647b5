"""The data dictionary: every table, view and statement with its columns, as one Markdown file.

`make generated` writes it from the definitions and headers.
"""

from itertools import takewhile
from pathlib import Path

from prunescope.pipelines.core.templates import package_templates
from prunescope.warehouse.catalogue.column_docs import PROVENANCE_COLUMNS, explain, split_header
from prunescope.warehouse.catalogue.database import LAYERS, PROVENANCE, PROVENANCE_COMMENT, SQL, connect, view_sql
from prunescope.warehouse.catalogue.view import header_parts
from prunescope.warehouse.schema.table import Column
from prunescope.warehouse.tables import TABLES

DICTIONARY = Path(__file__).parents[1] / "DICTIONARY.md"
_TYPES = """
    SELECT table_name, map_from_entries(list((column_name, data_type))) FROM duckdb_columns()
    WHERE schema_name = 'main' GROUP BY table_name
"""


def dictionary() -> str:
    """Return the whole dictionary as Markdown."""
    views = sorted(view_sql().values(), key=lambda view: view.name)
    texts = {
        name: {column: doc.comment("`{}`") for column, doc in docs.items()}
        for name, docs in (explain(view_sql().values()) | {PROVENANCE: PROVENANCE_COLUMNS}).items()
    }
    for table in TABLES.values():
        texts[table.name] = {each.name: f"{texts[table.name][each.name]}{_legal(each)}" for each in table.columns}
    with connect(DICTIONARY.parent / "no such folder") as empty:
        types: dict[str, dict[str, str]] = dict(empty.execute(_TYPES).fetchall())
    staged = [(view.name, column) for view in view_sql().values() if view.layer == "staging" for column in view.notes]
    for known in (texts, types):
        known["staging"] = {f"{name}.{column}": known[name][column] for name, column in staged}
    environment = package_templates("warehouse.catalogue", trim_blocks=True, keep_trailing_newline=True)
    # A bar would end a cell, even inside code.
    environment.filters |= {"code": lambda text: text and f"`{text}`", "cell": lambda text: text.replace("|", r"\|")}
    return environment.get_template("dictionary.md.j2").render(
        tables=TABLES,
        layers={layer: [view for view in views if view.layer == layer] for layer in LAYERS[1:]},
        statements={folder: _statements(SQL / folder) for folder in ("figures", "explorer")},
        texts=texts,
        types=types,
        provenance=PROVENANCE,
        provenance_comment=PROVENANCE_COMMENT,
    )


def _legal(column: Column) -> str:
    parts = [", ".join(column.values)] if column.values else []
    if column.minimum is not None and column.maximum is not None:
        parts.append(f"{column.minimum:g} to {column.maximum:g}")
    elif column.minimum is not None or column.maximum is not None:
        parts.append(f"at least {column.minimum:g}" if column.minimum is not None else f"at most {column.maximum:g}")
    if column.nullable:
        parts.append("NULL" if column.since == 1 else f"NULL, and in files before version {column.since}")
    return f" Values: {'; '.join(parts)}." if parts else ""


def _statements(folder: Path) -> dict[str, dict[str, str]]:
    """Return the headers' parts of the statements in a folder of `sql/`, which are not views, by name."""
    found = {}
    for path in sorted(folder.rglob("*.sql")):
        comment = takewhile(lambda line: line.startswith("--"), path.read_text(encoding="utf-8").splitlines())
        found[path.relative_to(folder).with_suffix("").as_posix()] = header_parts(split_header(comment, path)[0])
    return found
