"""The DuckDB catalogue: views over the Parquet files and the questions of `sql/`, with their comments.

It holds no data and is rebuilt at every opening; running a user's SQL safely is `safe_sql`'s business.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.scope import traverse_scope

from warehouse.atomic import write_atomically
from warehouse.errors import CatalogueError
from warehouse.explanations import PROVENANCE_COLUMNS, Explanation, explain, split_header
from warehouse.migrations import relation, version_of
from warehouse.provenance import FOOTER_KEY, Footer, read_footer
from warehouse.schema import Table
from warehouse.store import Store
from warehouse.tables import TABLES

SQL = Path(__file__).parents[1] / "sql"
LAYERS = ("staging", "marts", "questions")
PROVENANCE = "provenance"
_HEADER = re.compile(r"\s*(?:--[^\n]*\n\s*)+")
_TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float16(): "FLOAT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
}
_PROVENANCE_COMMENT = (
    "One row per Parquet file: what made it, from its footer; violations are the checks that its rows break."
)


@dataclass(frozen=True)
class View:
    """One file of `sql/`.

    Attributes:
        name: the file's stem, and the view's name.
        layer: its folder: staging, marts or questions.
        sql: the bare SELECT, header included.
        header: the comment above it, without dashes and without its notes on columns.
        columns: its columns, in order.
        notes: what the header says of the columns that are derived here.
        depends_on: the tables and views that it reads.
        path: the file.
    """

    name: str
    layer: str
    sql: str
    header: str
    columns: tuple[str, ...]
    notes: Mapping[str, Explanation]
    depends_on: tuple[str, ...]
    path: Path


def connect(root: Path | str, *, safe: bool = False) -> duckdb.DuckDBPyConnection:
    """Opens the catalogue of the warehouse as it is now, in memory.

    Views see the files that exist now; after a new partition, connect again.

    Args:
        root: the warehouse, which may be empty or not exist.
        safe: lock the connection: only the tables' folders can be read, and no setting changed.

    Raises:
        DamagedFileError: a partition is damaged; the message names it.
        CatalogueError: a file in `sql/` is wrong; the message names it.
    """
    store = Store(root)
    connection = duckdb.connect()
    try:
        _build(connection, store)
        if safe:
            _lock(connection, store)
    except BaseException:
        connection.close()
        raise
    return connection


def build_file(root: Path | str, path: Path) -> None:
    """Writes the catalogue as a DuckDB file for other tools; its views name the Parquet files by absolute paths.

    Raises:
        WarehouseError: as `connect`, or the file cannot be written.
    """
    store = Store(root)

    def write(temporary: Path) -> None:
        with duckdb.connect(temporary) as connection:
            _build(connection, store)

    write_atomically(path.absolute(), write)


def view_sql() -> dict[str, View]:
    """The views of `sql/` by name, each after those that it reads."""
    return load_views(SQL)


def load_views(folder: Path) -> dict[str, View]:
    """The views of a folder with `staging/`, `marts/` and `questions/`, each after those that it reads.

    Raises:
        CatalogueError: a file is no single SELECT, reads an unknown table, reads itself through others, or has a
            name that is taken.
    """
    views: dict[str, View] = {}
    for layer in LAYERS:
        for path in sorted((folder / layer).glob("*.sql")):
            if path.stem in views or path.stem in TABLES or path.stem == PROVENANCE:
                raise CatalogueError(f"{path}: another table or view is named {path.stem}; rename the file")
            views[path.stem] = _view(layer, path)
    known = {*views, *TABLES, PROVENANCE}
    for view in views.values():
        if unknown := [name for name in view.depends_on if name not in known]:
            raise CatalogueError(f"{view.path} reads {', '.join(unknown)}, which is neither a table nor a view")
    try:
        order = TopologicalSorter({view.name: view.depends_on for view in views.values()}).static_order()
        return {name: views[name] for name in order if name in views}
    except CycleError as error:
        circle = error.args[1]
        raise CatalogueError(f"{views[circle[0]].path} reads itself: {' -> '.join(reversed(circle))}") from error


def literal(text: str) -> str:
    """The text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """The name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def sql_type(of: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that a table uses."""
    if pa.types.is_dictionary(of):
        return sql_type(of.value_type)
    return f"{sql_type(of.value_type)}[]" if pa.types.is_list(of) else _TYPES[of]


def _build(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    # A view must not read a variable of the Python program that happens to have a table's name.
    connection.execute("SET python_enable_replacements = false")
    # Times read the same on every machine.
    connection.execute("SET TimeZone = 'UTC'")
    files: list[tuple[str, Path]] = []
    for table in TABLES.values():
        footers = {partition.path: read_footer(partition.path) for partition in store.partitions(table)}
        files += [(table.name, path) for path in footers]
        connection.execute(f"CREATE VIEW {quoted(table.name)} AS {_relation(table, footers)}")
        comments = [f"COMMENT ON VIEW {quoted(table.name)} IS {literal(table.grain)}"]
        comments += [_comment(table.name, column.name, column.comment()) for column in table.columns]
        connection.execute(";".join(comments))
    connection.execute(f"CREATE VIEW {PROVENANCE} AS {_provenance(files)}")
    connection.execute(f"COMMENT ON VIEW {PROVENANCE} IS {literal(_PROVENANCE_COMMENT)}")
    for path in sorted((SQL / "macros").glob("*.sql")):
        _execute(connection, path, path.read_text(encoding="utf-8"))
    views = view_sql()
    for view in views.values():
        _execute(connection, view.path, f"CREATE VIEW {quoted(view.name)} AS {view.sql}")
        connection.execute(f"COMMENT ON VIEW {quoted(view.name)} IS {literal(view.header)}")
    explained = explain(views.values())
    for name, columns in [(PROVENANCE, PROVENANCE_COLUMNS), *((name, explained[name]) for name in views)]:
        connection.execute(";".join(_comment(name, column, said.comment()) for column, said in columns.items()))


def _comment(view: str, column: str, text: str) -> str:
    return f"COMMENT ON COLUMN {quoted(view)}.{quoted(column)} IS {literal(text)}"


def _execute(connection: duckdb.DuckDBPyConnection, path: Path, sql: str) -> None:
    try:
        connection.execute(sql)
    except duckdb.Error as error:
        raise CatalogueError(f"{path}: {str(error).strip()}") from error


def _relation(table: Table, footers: dict[Path, Footer]) -> str:
    """The SELECT over a table's files, with the table's columns whatever the files hold."""
    typed = {quoted(column.name): sql_type(column.type) for column in table.columns}
    versions: dict[int | None, list[Path]] = {}
    for path, footer in footers.items():
        versions.setdefault(version_of(table, footer.schema), []).append(path)
    sources = {}
    for version, paths in versions.items():
        # Files of no version may differ among themselves.
        options = "hive_partitioning = false" + ("" if version else ", union_by_name = true")
        sources[version] = f"read_parquet({_list(paths)}, {options})"
    return relation(table, typed, sources)


def _provenance(files: Sequence[tuple[str, Path]]) -> str:
    """The SELECT over the footers of all files."""
    columns = {
        name: f"json_extract_string(footer, '$.{name}')"
        for name in ("model", "recipe", "fingerprint", "study", "code_version", "device", "dtype")
    } | {
        "seed": "CAST(json_extract(footer, '$.seed') AS BIGINT)",
        "seconds": "CAST(json_extract(footer, '$.seconds') AS DOUBLE)",
        "created_at": "CAST(json_extract_string(footer, '$.created_at') AS TIMESTAMPTZ)",
        "inputs_json": "CAST(json_extract(footer, '$.inputs') AS VARCHAR)",
        "libraries_json": "CAST(json_extract(footer, '$.libraries') AS VARCHAR)",
        "violations": "CAST(json_extract(footer, '$.violations') AS VARCHAR[])",
    }
    selected = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    if not files:
        return f"SELECT '' AS table_name, '' AS path, {selected} FROM (SELECT '{{}}'::JSON AS footer) WHERE false"  # noqa: S608
    tables = ", ".join(f"({literal(str(path))}, {literal(table)})" for table, path in files)
    read = f"parquet_kv_metadata({_list([path for _, path in files])})"
    footers = (
        f"SELECT file_name AS path, decode(value)::JSON AS footer FROM {read} "  # noqa: S608
        f"WHERE key = {literal(FOOTER_KEY.decode())}::BLOB"
    )
    return (
        f"SELECT table_name, path, {selected} FROM ({footers}) "  # noqa: S608
        f"JOIN (VALUES {tables}) AS files (path, table_name) USING (path) ORDER BY path"
    )


def _list(paths: Sequence[Path]) -> str:
    return f"[{', '.join(literal(str(path)) for path in paths)}]"


def _lock(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Closes every way out of the tables' folders; the order matters, the last step forbids all further ones."""
    folders = _list([store.root / name for name in TABLES])
    for setting in (
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "temp_directory = ''",
        "memory_limit = '2GB'",
        f"allowed_directories = {folders}",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")


def _view(layer: str, path: Path) -> View:
    sql = path.read_text(encoding="utf-8").strip().removesuffix(";")
    try:
        trees = sqlglot.parse(sql, dialect="duckdb")
    except sqlglot.ParseError as error:
        raise CatalogueError(f"{path}: {str(error).partition(chr(10))[0]}") from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise CatalogueError(f"{path} must hold one SELECT and nothing else")
    sources = [source for scope in traverse_scope(trees[0]) for source in scope.sources.values()]
    # A table function is a source too, but has no name of its own.
    reads = {source.name for source in sources if isinstance(source, exp.Table) and source.name}
    header = _HEADER.match(sql + "\n")
    prose, notes = split_header(header.group().splitlines() if header else (), path)
    return View(path.stem, layer, sql, prose, tuple(trees[0].named_selects), notes, tuple(sorted(reads)), path)
