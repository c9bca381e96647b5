"""The DuckDB catalogue: views over the Parquet files and the files of `sql/`, with comments on every column.

It holds no data. Its views are built once per version of `sql/` and copied whenever a connection opens.
"""

import atexit
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeAlias

import duckdb

from prunescope.pipelines.core.quoting import literal, quoted
from prunescope.warehouse.catalogue.column_docs import PROVENANCE_COLUMNS, explain, split_header
from prunescope.warehouse.catalogue.staging import staging_sql
from prunescope.warehouse.catalogue.view import View
from prunescope.warehouse.core.cache import cache_folder
from prunescope.warehouse.core.errors import CatalogueError, WarehouseError
from prunescope.warehouse.core.limits import GIBIBYTES
from prunescope.warehouse.schema.migrations import relation
from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.storage.atomic_write import write_atomically
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import FOOTER_KEY
from prunescope.warehouse.storage.snapshot import FOOTERS, LISTED, SOURCES, File, Snapshot, damage_explained
from prunescope.warehouse.tables import TABLES

SQL = Path(__file__).parents[2] / "sql"
LAYERS = ("staging", "intermediate", "marts", "questions")
PROVENANCE = "provenance"
# DuckDB's listings that hide the schema of the files.
LISTINGS = ("duckdb_columns", "duckdb_schemas", "duckdb_tables", "duckdb_views")
_Source: TypeAlias = tuple[str, Path, str]  # layer, file, text
# Number of versions whose built views stay in the cache.
_TEMPLATES = 16
_HEADER = re.compile(r"\s*(?:--[^\n]*\n\s*)+")
PROVENANCE_COMMENT = (
    "One row per Parquet file: what made it, from its footer; violations are the checks that its rows break."
)


def connect(
    root: Place | str, *, safe: bool = False, gibibytes: float = GIBIBYTES, models: Collection[str] | None = None
) -> duckdb.DuckDBPyConnection:
    """Open the catalogue of the warehouse in memory.

    All queries of the connection and of its cursors see the files that exist now, whatever is written later; connect
    again for new partitions.

    `safe` locks the connection: it reads only the partitions, within `gibibytes` GiB of memory, writes no file and
    accepts no change of settings. With `models` only their partitions are visible.

    Warns:
        DamagedFileWarning: for each partition that cannot be read or belongs at another path; it is left out.

    Raises:
        WarehouseError: `root` is a file, or cannot be listed.
        CatalogueError: a file in `sql/` is invalid; the message names it.
    """
    return _opened(root, Snapshot.hold, models, safe=safe, gibibytes=gibibytes)[0]


@contextmanager
def connected(root: Place | str, *, models: Collection[str] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the catalogue as `connect` does and close all its files, cursors included, at the end of the block.

    Raises:
        DamagedFileError: a query of the block reads a damaged file; the message names it.
    """
    connection, snapshot = _opened(root, Snapshot.serve, models)
    try:
        with connection, damage_explained(connection):
            yield connection
    finally:
        snapshot.close()


def _opened(
    root: Place | str,
    give: Callable[[Snapshot, duckdb.DuckDBPyConnection], None],
    models: Collection[str] | None,
    *,
    safe: bool = False,
    gibibytes: float = GIBIBYTES,
    is_thorough: bool = False,
) -> tuple[duckdb.DuckDBPyConnection, Snapshot]:
    snapshot = Snapshot(Store(root), models, is_thorough=is_thorough)
    connection = duckdb.connect()
    try:
        give(snapshot, connection)
        _set_up(connection)
        _copy(views_file(), connection)
        files = snapshot.files
        if safe and isinstance(snapshot.root, Path):
            files = [replace(file, source=LISTED + file.source) for file in files]
        _fill(connection, files)
        if safe:
            _lock(connection, snapshot.root, gibibytes)
    except BaseException as error:
        connection.close()
        snapshot.close()
        if is_thorough or not isinstance(error, duckdb.Error):
            raise
        # DuckDB reads the first footer of each table, and it may be damaged.
        return _opened(root, give, models, safe=safe, gibibytes=gibibytes, is_thorough=True)
    return connection, snapshot


def build_file(root: Place | str, path: Place) -> None:
    """Write the catalogue as a DuckDB file for other tools; its views refer to the Parquet files by absolute paths.

    Raises:
        WarehouseError: as in `connect`, or the file cannot be written.
    """
    snapshot = Snapshot(Store(root))
    snapshot.close()
    files = [replace(file, source=str(file.partition.path)) for file in snapshot.files]

    def write(temporary: Path) -> None:
        # Not in its place: DuckDB cuts a path at `?` to name its log.
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(views_file(), copy := Path(folder) / "catalogue.duckdb")
            with duckdb.connect(copy) as connection:
                snapshot.serve(connection)
                _set_up(connection)
                _fill(connection, files)
            shutil.copyfile(copy, temporary)

    write_atomically(path.absolute(), write)


def views_file() -> Path:
    """Return a DuckDB file with all views over tables without files, from which connections copy them.

    Binding and commenting the views takes a hundred times as long as copying them. The file is therefore built once per
    version of `sql/` and of the code, in the user's cache.

    Raises:
        CatalogueError: a file in `sql/` is invalid; the message names it.
    """
    sources = _sources(SQL)
    version = hashlib.sha256(f"{duckdb.__version__}\0{_code_hash()}".encode())
    for layer, path, text in sources:
        version.update(f"\0{layer}\0{path.stem}\0{text}".encode())
    file = cache_folder() / "catalogues" / f"{version.hexdigest()}.duckdb"
    if not file.exists():
        try:
            write_atomically(file, lambda temporary: _build_template(temporary, sources))
        except CatalogueError:
            raise
        except (WarehouseError, duckdb.IOException):  # the cache is read-only, full, or on a disk without locks
            return _own_template(sources)
        with suppress(OSError):  # another process has removed it, or another user owns it
            for old in sorted(file.parent.glob("*.duckdb"), key=lambda path: path.stat().st_mtime)[:-_TEMPLATES]:
                old.unlink()
    with suppress(OSError):  # the files used last stay in the cache
        os.utime(file)
    return file


def view_sql(folder: Path | None = None) -> dict[str, View]:
    """Return the views of `sql/`, or of another folder with one subfolder per layer, each after those that it reads.

    Raises:
        CatalogueError: a file is not a single SELECT, depends on itself, or has a name that is taken.
    """
    return dict(_views(_sources(folder or SQL)))


def _sources(folder: Path) -> tuple[_Source, ...]:
    """Return the staging views of all tables, which may have no file, and all other SQL files."""
    staged = [(table, folder / "staging" / f"stg_{table.name}.sql") for table in TABLES.values()]
    paths = [(layer, path) for layer in ("macros", *LAYERS[1:]) for path in sorted((folder / layer).rglob("*.sql"))]
    return (
        *(("staging", path, staging_sql(table, path)) for table, path in staged),
        *((layer, path, path.read_text(encoding="utf-8")) for layer, path in paths),
    )


@lru_cache(maxsize=8)  # parsing takes long, and a process calls this often
def _views(sources: tuple[_Source, ...]) -> dict[str, View]:
    views: dict[str, View] = {}
    for layer, path, text in sources:
        if layer == "macros":
            continue
        if path.stem in views or path.stem in TABLES or path.stem == PROVENANCE:
            raise CatalogueError(f"{path}: another table or view is named {path.stem}; rename the file")
        views[path.stem] = _view(layer, path, text)
    try:
        order = TopologicalSorter({view.name: view.depends_on for view in views.values()}).static_order()
        return {name: views[name] for name in order if name in views}
    except CycleError as error:
        circle = error.args[1]
        raise CatalogueError(f"{views[circle[0]].path} reads itself: {' -> '.join(reversed(circle))}") from error


@lru_cache(maxsize=2)
def _own_template(sources: tuple[_Source, ...]) -> Path:
    """Build the template in a temporary folder that is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="prunescope-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "views.duckdb"
    _build_template(file, sources)
    return file


def _build_template(file: Path, sources: tuple[_Source, ...]) -> None:
    with duckdb.connect(file) as connection:
        _set_up(connection)
        _define(connection, sources)


@cache
def _code_hash() -> str:
    """Hash the modules of `warehouse`, which define the tables."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _copy(template: Path, connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.execute(f"ATTACH {literal(str(template))} AS template (READ_ONLY)")
    except duckdb.Error as error:
        raise CatalogueError(f"{template}: {str(error).strip()}; delete it, and it is built again") from error
    connection.execute("COPY FROM DATABASE template TO memory (SCHEMA)")
    connection.execute("DETACH template")


def _set_up(connection: duckdb.DuckDBPyConnection) -> None:
    # Otherwise a view could read a Python variable with the name of a table.
    connection.execute("SET python_enable_replacements = false")
    # The same times on every machine, for cursors too.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    # Standard output is for data only.
    connection.execute("SET enable_progress_bar = false")


def _define(connection: duckdb.DuckDBPyConnection, sources: tuple[_Source, ...]) -> None:
    """Create all views over tables without files, because DuckDB opens the files of every view that it binds."""
    views = _views(sources)
    connection.execute("BEGIN")
    connection.execute("CREATE SCHEMA files")
    # Listings of tables, also information_schema and SHOW, call these by their unqualified names.
    for listing in LISTINGS:
        connection.execute(
            f"CREATE MACRO {listing}() AS TABLE FROM system.main.{listing}() WHERE schema_name <> 'files'"
        )
    _fill(connection, [])
    for table in TABLES.values():
        columns = ", ".join(quoted(column.name) for column in table.columns)
        connection.execute(f"CREATE VIEW {quoted(table.name)} AS SELECT {columns} FROM {_files_of(table.name)}")  # noqa: S608
    connection.execute(f"CREATE VIEW {PROVENANCE} AS SELECT {', '.join(PROVENANCE_COLUMNS)} FROM {FOOTERS}")  # noqa: S608
    for layer, path, text in sources:
        if layer == "macros":
            _execute(connection, path, text)
    for view in views.values():
        _execute(connection, view.path, f"CREATE VIEW {quoted(view.name)} AS {view.sql}")
    connection.execute(";".join(_comments(views)))
    connection.execute("COMMIT")


def _fill(connection: duckdb.DuckDBPyConnection, files: Sequence[File]) -> None:
    """Define the files that each table reads."""
    columns = ("source", "path", "table_name")
    rows = [(file.source, str(file.partition.path), file.partition.table) for file in files]
    sources = literal(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
    typed = f"{sources}::JSON::STRUCT({', '.join(f'{name} VARCHAR' for name in columns)})[]"
    connection.execute(f"CREATE OR REPLACE VIEW {SOURCES} AS SELECT unnest({typed}, max_depth := 2)")
    for name in (*TABLES, PROVENANCE):
        of_table = [file for file in files if name in {file.partition.table, PROVENANCE}]
        if of_table or not files:
            select = _provenance(of_table) if name == PROVENANCE else _relation(TABLES[name], of_table)
            connection.execute(f"CREATE OR REPLACE VIEW {_files_of(name)} AS {select}")


def _files_of(name: str) -> str:
    """Return the name of the view over a table's files, in a schema of its own so that listings omit it."""
    return f"files.{quoted(f'{name}_files')}"


def _comments(views: Mapping[str, View]) -> Iterator[str]:
    """Yield the statements that comment every table, view and column."""
    yield _comment("VIEW", PROVENANCE, text=PROVENANCE_COMMENT)
    for table in TABLES.values():
        yield _comment("VIEW", table.name, text=table.grain)
        for column in table.columns:
            yield _comment("COLUMN", table.name, column.name, text=column.comment())
    for view in views.values():
        yield _comment("VIEW", view.name, text=view.header)
    explained = explain(views.values())
    for name, columns in [(PROVENANCE, PROVENANCE_COLUMNS), *((name, explained[name]) for name in views)]:
        yield from (_comment("COLUMN", name, column, text=said.comment()) for column, said in columns.items())


def _comment(kind: str, *names: str, text: str) -> str:
    return f"COMMENT ON {kind} {'.'.join(map(quoted, names))} IS {literal(text)}"


def _execute(connection: duckdb.DuckDBPyConnection, path: Path, sql: str) -> None:
    try:
        connection.execute(sql)
    except duckdb.Error as error:
        raise CatalogueError(f"{path}: {str(error).strip()}") from error


def _relation(table: Table, files: Sequence[File]) -> str:
    """Return the SELECT over a table's files, with the table's columns, even if files have others."""
    versions: dict[int | None, list[str]] = {}
    for file in files:
        versions.setdefault(file.version, []).append(file.source)
    # Files without a version may have different columns.
    sources = {
        version: f"read_parquet({_list(paths)}, hive_partitioning = false, union_by_name = {version is None})"
        for version, paths in versions.items()
    }
    return relation(table, sources)


def _provenance(files: Sequence[File]) -> str:
    """Return the SELECT over the footers of all files."""
    computed = {
        "seed": "CAST(json_extract(footer, '$.seed') AS BIGINT)",
        "seconds": "CAST(json_extract(footer, '$.seconds') AS DOUBLE)",
        "created_at": "CAST(json_extract_string(footer, '$.created_at') AS TIMESTAMPTZ)",
        "inputs_json": "CAST(json_extract(footer, '$.inputs') AS VARCHAR)",
        "libraries_json": "CAST(json_extract(footer, '$.libraries') AS VARCHAR)",
        "violations": "CAST(json_extract(footer, '$.violations') AS VARCHAR[])",
        "rows": "num_rows",
        "bytes": "CAST(file_size_bytes AS BIGINT)",
    }
    names = [name for name in PROVENANCE_COLUMNS if name not in {"table_name", "path"}]
    plain = {name: f"json_extract_string(footer, '$.{name}')" for name in names}
    selected = ", ".join(f"{expression} AS {name}" for name, expression in (plain | computed).items())
    if not files:
        nothing = "SELECT '{}'::JSON AS footer, 0::BIGINT AS num_rows, 0::UBIGINT AS file_size_bytes"
        return f"SELECT '' AS table_name, '' AS path, '' AS source, {selected} FROM ({nothing}) WHERE false"  # noqa: S608
    sources = _list([file.source for file in files])
    footers = (
        f"SELECT file_name AS source, decode(value)::JSON AS footer FROM parquet_kv_metadata({sources}) "  # noqa: S608
        f"WHERE key = {literal(FOOTER_KEY.decode())}::BLOB"
    )
    sizes = f"SELECT file_name AS source, num_rows, file_size_bytes FROM parquet_file_metadata({sources})"  # noqa: S608
    return (
        f"SELECT table_name, path, source, {selected} FROM ({footers}) "  # noqa: S608
        f"JOIN ({sizes}) USING (source) JOIN {SOURCES} USING (source) ORDER BY path"
    )


def _list(texts: Sequence[str]) -> str:
    """Return the texts as a SQL list; one literal, because DuckDB takes long to bind ten thousand."""
    return f"{literal(json.dumps(texts))}::JSON::VARCHAR[]"


def _lock(connection: duckdb.DuckDBPyConnection, root: Place, gibibytes: float) -> None:
    """Restrict the connection to the partitions. The order matters: the last setting forbids all further ones.

    What is allowed may also be written, by COPY in a WITH too; the file systems of `object_store` refuse that, and
    DuckDB's own is switched off.
    """
    folders = _list([LISTED] if isinstance(root, Path) else [str(root / name) for name in TABLES])
    for setting in (
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "temp_directory = ''",
        "http_proxy = ''",  # by default the environment's, with its password
        f"memory_limit = '{gibibytes * 1024:.0f} MiB'",
        f"allowed_directories = {folders}",
        "enable_external_access = false",
        "disabled_filesystems = 'LocalFileSystem'",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")


def _view(layer: str, path: Path, text: str) -> View:
    import sqlglot
    from sqlglot import exp
    from sqlglot.optimizer.scope import traverse_scope

    sql = text.strip().removesuffix(";")
    try:
        trees = sqlglot.parse(sql, dialect="duckdb")
    except sqlglot.ParseError as error:
        raise CatalogueError(f"{path}: {str(error).partition(chr(10))[0]}") from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise CatalogueError(f"{path} must hold one SELECT and nothing else")
    sources = [source for scope in traverse_scope(trees[0]) for source in scope.sources.values()]
    # A table function is a source too, but has no name.
    reads = {source.name for source in sources if isinstance(source, exp.Table) and source.name}
    header = _HEADER.match(sql + "\n")
    prose, notes = split_header(header.group().splitlines() if header else (), path)
    return View(path.stem, layer, sql, prose, tuple(trees[0].named_selects), notes, tuple(sorted(reads)), path)
