"""Commands that read the warehouse: SQL, questions, tables, variants, report. None writes to it.

Rows come from `warehouse`; nothing is computed here.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

import re
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets.cli import completion
from prunescope.assets.cli.figures import check_place, require_data, show
from prunescope.assets.cli.narrowing import OnlyModels, OnlyPrompts, OnlyRecipes
from prunescope.assets.cli.options import Debug, Format, Memory, Output, Seconds, Warehouse, existing, variant_names
from prunescope.assets.cli.output import chosen_format, emit, log, put, write_file
from prunescope.assets.cli.serve import show_report
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.limits import GIBIBYTES, SECONDS
from prunescope.warehouse.core.quoting import quoted

if TYPE_CHECKING:
    from prunescope.warehouse.catalogue.view_header import Header

# What one types for a look around, in psql's words too.
_BROWSING = re.compile(
    r"\s*(?:(?:show\s+(?:all\s+)?)?tables|describe|\\dt?|(?:describe|\\d)\s+(?P<name>\w+))\s*;?\s*", re.IGNORECASE
)
_PLAN = ["explain_key", "explain_value"]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (recipes, sql, questions, question, tables, describe, variants, report):
        app.command()(command)


def recipes(
    method: Annotated[
        str | None,
        typer.Argument(help="A method such as `wanda`: all its parameters.", autocompletion=completion.methods),
    ] = None,
    format_: Format = None,
    output: Output = None,
    debug: Debug = False,
) -> None:
    """List the ways to prune. Names with other numbers are recipes too, and several joined by `+` one after the other.

    Every parameter of a method can be set in a study's YAML, or as in the last example.

    For example:

    - `prunescope recipes sparsegpt`
    - `prunescope run demo --recipe attn-drop-4+wanda-50`
    - `prunescope run demo --recipe "{name: mine, method: wanda, sparsity: 0.6, modules: [mlp]}"`
    """
    import pyarrow as pa

    from prunescope.pipelines.recipes.listing import recipe_forms, recipe_parameters, recipe_text

    chosen_format(format_, output)
    emit(pa.Table.from_pylist(recipe_forms() if method is None else recipe_parameters(method)), format_, output)
    if method is not None:
        log(recipe_text(method))


def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="One SELECT, `tables` or `describe NAME`; `-`: from standard input.")],
    seconds: Seconds = SECONDS,
    memory: Memory = GIBIBYTES,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    r"""Ask the warehouse in SQL (DuckDB's dialect). Read-only: no files, no network, no settings.

    `tables` (or `\d`) and `describe NAME` (or `\d NAME`) show what there is, as the commands of these names do.

    For example:

    - `prunescope sql "SELECT recipe, kl_step0_nats FROM variant_summary ORDER BY 2"`
    - `prunescope sql "FROM layer_summary" -o layers.parquet`
    - `prunescope sql - --format csv < mine.sql`
    """
    from prunescope.warehouse.catalogue.safe_sql import run_safe

    chosen = chosen_format(format_, output)
    text = sys.stdin.read() if query == "-" else query
    if browsed := _BROWSING.fullmatch(text):
        if browsed["name"]:
            describe(context, browsed["name"], format_, output)
        else:
            tables(context, format_, output)
        return
    rows = run_safe(existing(context), text, seconds=seconds, gibibytes=memory)
    if rows.column_names == _PLAN and chosen == "table" and output is None:
        put("\n".join(rows["explain_value"].to_pylist()))  # a drawing of its own
    else:
        emit(rows, format_, output)


def questions(
    context: typer.Context,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """List the questions that the warehouse answers; `prunescope question q01` asks one."""
    import pyarrow as pa

    from prunescope.warehouse.catalogue.lineage import questions as question_views

    rows = [{"question": name, "asks": view.header.partition("\n")[0]} for name, view in question_views().items()]
    emit(pa.Table.from_pylist(rows, pa.schema({"question": pa.string(), "asks": pa.string()})), format_, output)


def question(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Number or name, such as `q01`.", autocompletion=completion.questions)],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="MODEL@RECIPE",
            help="Only this variant. Repeatable.",
            autocompletion=completion.variants,
        ),
    ] = None,
    model: OnlyModels = None,
    recipe: OnlyRecipes = None,
    prompt: OnlyPrompts = None,
    explain: Annotated[bool, typer.Option("--explain", help="All there is to know for reading the answer.")] = False,
    chart: Annotated[
        bool, typer.Option("--chart", help="Draw the answer: opened, or written to -o as png, svg, pdf, html or json.")
    ] = False,
    seconds: Seconds = SECONDS,
    memory: Memory = GIBIBYTES,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Answer one question, with how to read it on standard error.

    The filters choose rows of the answer; what a row says stays what it is without them.

    For example:

    - `prunescope question q07`
    - `prunescope question q11 --recipe wanda-2of4 --explain`
    - `prunescope question q01 --chart -o spikes.svg`
    - `prunescope question q11 --format latex -o flips.tex`
    """
    from prunescope.warehouse.catalogue import view_header
    from prunescope.warehouse.catalogue.lineage import questions as question_views
    from prunescope.warehouse.catalogue.question_query import RowFilter, ask

    views = question_views()
    found = [view for view in views.values() if view.name == name or view.name.partition("_")[0] == name.lower()]
    if not found:
        raise InputError(
            f"there is no question {name!r}; there are {', '.join(view.partition('_')[0] for view in views)}"
        )
    asked = found[0]
    if chart:
        check_place(output, format_)
    else:
        chosen_format(format_, output)
    pairs = tuple(variant_names(text) for text in variant or ())
    wanted = RowFilter(tuple(model or ()), tuple(recipe or ()), tuple(prompt or ()), pairs)
    rows = ask(existing(context), asked, wanted, seconds=seconds, gibibytes=memory)
    header = view_header.parse(asked.header)
    log(asked.header if explain else f"{header.asks}\n{_reading(rows.num_rows, header)} (--explain says more)", "dim")
    if chart:
        import polars as pl

        from prunescope.pipelines.reporting.charts import auto_chart

        drawing = auto_chart.draw(asked.name, pl.DataFrame(rows), header.key, header.asks).to_dict()
        require_data([drawing])
        show(drawing, asked.name, output)
    else:
        emit(rows, format_, output)


def _reading(rows: int, header: "Header") -> str:
    """How to read an answer, in one line."""
    if not rows:
        return f"no row: the warehouse lacks what {header.inputs or 'it'} would tell, or a filter leaves nothing"
    return f"{rows} row{'' if rows == 1 else 's'}, {header.grain}: {header.reading()}"


def tables(
    context: typer.Context,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """List tables and views: what a row is, how many there are; `prunescope describe NAME` has the columns."""
    import pyarrow as pa

    from prunescope.warehouse.catalogue import view_header
    from prunescope.warehouse.catalogue.database import view_sql
    from prunescope.warehouse.storage.partition_store import Store
    from prunescope.warehouse.storage.provenance import read_footer
    from prunescope.warehouse.tables import TABLES

    store, rows = Store(existing(context)), []
    for table in TABLES.values():
        footers = []
        for partition in store.partitions(table):
            try:
                footers.append(read_footer(partition.path))
            except FileNotFoundError:  # removed since it was listed
                continue
            except WarehouseError as error:
                log(f"warning: {error}; its rows are not counted", "yellow")
        count = sum(footer.rows for footer in footers)
        rows.append(
            {
                "name": table.name,
                "kind": "table",
                "partitions": len(footers),
                "rows": count,
                "about": table.grain,
                "key": ", ".join(table.key),
            }
        )
    rows += [
        {"name": view.name, "kind": view.layer, "about": header.asks, "key": ", ".join(header.key)}
        for view in sorted(view_sql().values(), key=lambda view: (view.layer, view.name))
        if view.layer != "staging"
        for header in [view_header.parse(view.header)]
    ]
    schema = pa.schema(
        {
            "name": pa.string(),
            "kind": pa.string(),
            "partitions": pa.int64(),
            "rows": pa.int64(),
            "about": pa.string(),
            "key": pa.string(),
        }
    )
    emit(pa.Table.from_pylist(rows, schema), format_, output)


def describe(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A table or view, see `prunescope tables`.", autocompletion=completion.relations)
    ],
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Explain the columns of a table or view: type, unit, formula, source.

    For example: `prunescope describe layer_transitions`
    """
    import pyarrow as pa

    from prunescope.warehouse.catalogue import view_header
    from prunescope.warehouse.catalogue.column_docs import PROVENANCE_COLUMNS, explain
    from prunescope.warehouse.catalogue.database import FORMER_NAMES, PROVENANCE, PROVENANCE_COMMENT, connect, view_sql
    from prunescope.warehouse.catalogue.lineage import questions as question_views
    from prunescope.warehouse.tables import TABLES

    explained = explain(view_sql().values()) | {PROVENANCE: PROVENANCE_COLUMNS}
    numbers = {view.partition("_")[0]: view for view in question_views()}
    name = numbers.get(name.lower(), name if name in explained else name.lower())
    name = FORMER_NAMES.get(name, name)
    if name not in explained:
        raise InputError(f"there is no table or view {name!r}; see `prunescope tables`")
    with connect(existing(context)) as connection:
        relation = connection.sql(f"SELECT * FROM {quoted(name)}")  # noqa: S608 - checked above
        columns = list(zip(relation.columns, relation.types, strict=True))
    said = explained[name]
    rows = [
        {
            "column": column,
            "type": str(type_),
            "unit": said[column].unit,
            "formula": said[column].formula,
            "about": said[column].doc,
            "source": said[column].source,
        }
        for column, type_ in columns
    ]
    keys = _keys()
    about = {view.name: view.header for view in view_sql().values()} | {PROVENANCE: PROVENANCE_COMMENT}
    log(TABLES[name].grain if name in TABLES else about[name], "dim")
    if name in TABLES:
        log(f"key: {', '.join(keys[name])}", "dim")
        for reference in TABLES[name].references:
            log(str(reference), "dim")
    names = [column for column, _ in columns]
    stored = {table.name: [column.name for column in table.columns] for table in TABLES.values()}
    for heading, found in (
        ("joins that add columns and never rows:", view_header.joins(name, names, keys)),
        (
            "tables with several rows for each:",
            view_header.finer(name, names, {t.name: t.key for t in TABLES.values()}),
        ),
    ):
        lines = [
            f"  LEFT JOIN {other} USING ({', '.join(using)}){view_header.forced(name, other, stored)}"
            for other, using in found.items()
        ]
        if lines:
            log("\n".join([heading, *lines]), "dim")
    if name in TABLES and TABLES[name].example:
        log(f"for example:\n{textwrap.indent(TABLES[name].example, '  ')}", "dim")
    emit(pa.Table.from_pylist(rows), format_, output)


def _keys() -> dict[str, tuple[str, ...]]:
    """The keys of tables and marts, which are what one joins."""
    from prunescope.warehouse.catalogue import view_header
    from prunescope.warehouse.catalogue.database import view_sql
    from prunescope.warehouse.tables import TABLES

    marts = {view.name: view_header.parse(view.header).key for view in view_sql().values() if view.layer == "marts"}
    return {table.name: table.key for table in TABLES.values()} | marts


def variants(
    context: typer.Context,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """List the variants: what each recipe removed from its model, and which study computed it when."""
    from prunescope.warehouse.catalogue.safe_sql import run_safe

    query = """
        SELECT variants.model, variants.recipe, method, parameters_removed_share, sparsity,
               len(sublayers_dropped) AS sublayers_dropped, file_bytes, variants.seconds, study, created_at
        FROM variants
        JOIN provenance ON table_name = 'variants' AND provenance.model = variants.model
                       AND provenance.recipe = variants.recipe
        ORDER BY variants.model, variants.recipe <> 'dense', variants.recipe
    """
    emit(run_safe(existing(context), query), format_, output)


def report(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(
            help="Name of the study; not needed where there is one report.", autocompletion=completion.studies
        ),
    ] = None,
    output: Output = None,
    terminal: Annotated[bool, typer.Option("--terminal", "-t", help="Show it here, without a browser.")] = False,
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant",
            metavar="MODEL@RECIPE",
            help="With --terminal: one variant.",
            autocompletion=completion.variants_or_recipes,
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="With --variant: both texts, token by token.")] = None,
    step: Annotated[
        int | None, typer.Option("--step", min=0, help="With --prompt: likely tokens and layers at this token.")
    ] = None,
    forced: Annotated[
        bool, typer.Option("--forced", help="With --prompt: reading the dense model's tokens, not its own.")
    ] = False,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Say where a study's report lies, copy it with -o, or show it in the terminal.

    For example:

    - `prunescope report demo -o report.html`
    - `prunescope report demo --terminal --variant wanda-50`
    """
    from prunescope.warehouse.storage.partition_store import Store

    if terminal:
        if output is not None:
            raise InputError("--terminal -o: leave out one of the two; `> FILE` keeps what a terminal shows")
        show_report(existing(context), study, variant, prompt, step, forced=forced)
        return
    if variant is not None or prompt is not None or step is not None or forced:
        raise InputError("--variant, --prompt, --step and --forced are for --terminal; the page has links for them")
    if output is not None and output.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"-o {output}: a report is one HTML page; end the name in .html")
    reports = {path.stem: path for path in Store(existing(context)).files("_reports") if path.suffix == ".html"}
    names = ", ".join(reports) or "none yet: run a study first, such as `prunescope run demo`"
    if study is None and len(reports) != 1:
        raise InputError(f"which report? name the study; there are {names}")
    chosen = study if study is not None else next(iter(reports))
    if chosen not in reports:
        raise InputError(f"there is no report of study {chosen!r}; there are {names}")
    if output is None:
        put(str(reports[chosen]))
    else:
        write_file(output, reports[chosen].read_bytes())
