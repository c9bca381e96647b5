"""Commands that read the warehouse: recipes, SQL, questions, variants and report."""

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets.cli import completion
from prunescope.assets.cli.figures import check_chart_path, require_data, show
from prunescope.assets.cli.options import (
    Format,
    Memory,
    OnlyModels,
    OnlyPrompts,
    OnlyRecipes,
    Output,
    Seconds,
    answer_bytes,
    existing,
    require_named,
    sql_process,
    variant_option,
    variants_of,
)
from prunescope.assets.cli.output import Sink, chosen_sink, emit, emit_bytes, emit_list, log, put, write_file
from prunescope.assets.cli.relations import describe, tables
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.warehouse.catalogue.sql_process import Setup
from prunescope.warehouse.core.limits import GIBIBYTES, SECONDS, TEXT_ROWS

if TYPE_CHECKING:
    from prunescope.warehouse.catalogue.view import View

# Shorthands for the commands `tables` and `describe`, also as psql spells them.
_SHORTHAND = re.compile(
    r"\s*(?:(?:show\s+(?:all\s+)?)?tables|describe|\\dt?|(?:describe|\\d)\s+(?P<name>\w+))\s*;?\s*", re.IGNORECASE
)

# Rows of an answer in format table: what a screen holds; the other formats have all.
_LINES = 20


def recipes(
    sink: Sink,
    method: Annotated[
        str | None,
        typer.Argument(help="A method such as `wanda`, to list all its parameters.", autocompletion=completion.methods),
    ] = None,
) -> None:
    """List the recipes. Their numbers may be changed; recipes joined by `+` are applied one after the other.

    Every parameter of a method can be set in a study's YAML, or as in the last example.

    For example:

    - `prunescope recipes sparsegpt`
    - `prunescope run demo --recipe attn-drop-4+wanda-50`
    - `prunescope run demo --recipe "{name: mine, method: wanda, sparsity: 0.6, modules: [mlp]}"`
    """
    import pyarrow as pa

    from prunescope.pipelines.recipes.listing import recipe_forms, recipe_parameters, recipe_text

    emit(pa.Table.from_pylist(recipe_forms() if method is None else recipe_parameters(method)), sink)
    if method is not None:
        log(recipe_text(method))


def sql(
    context: typer.Context,
    sink: Sink,
    query: Annotated[
        str, typer.Argument(help="One SELECT, `tables` or `describe NAME`; `-` reads it from standard input.")
    ],
    seconds: Seconds = SECONDS,
    memory: Memory = GIBIBYTES,
) -> None:
    r"""Query the warehouse in SQL (DuckDB's dialect). Read-only: no files, no network, no settings.

    `tables` (or `\d`) and `describe NAME` (or `\d NAME`) do the same as the commands of these names.

    For example:

    - `prunescope sql "SELECT recipe, kl_step0_nats FROM variant_summary ORDER BY 2"`
    - `prunescope sql "FROM layer_summary" -o layers.parquet`
    - `prunescope sql - --format csv < mine.sql`
    """
    text = sys.stdin.read() if query == "-" else query
    if shorthand := _SHORTHAND.fullmatch(text):
        if shorthand["name"]:
            describe(context, sink, shorthand["name"])
        else:
            tables(context, sink)
        return
    with sql_process(context, Setup(str(existing(context)), memory)) as process:
        content, _ = process.render(text, to=sink.format, width=sink.width, seconds=seconds, size=answer_bytes(memory))
    emit_bytes(content, sink.path)


def questions(context: typer.Context, sink: Sink) -> None:
    """List the questions that the warehouse answers; `prunescope question q01` answers one."""
    from prunescope.warehouse.catalogue.lineage import questions as question_views

    require_named(context)
    rows = [{"question": name, "asks": view.header.partition("\n")[0]} for name, view in question_views().items()]
    emit_list(rows, sink, question=str, asks=str)


def question(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="Number or name, such as `q01` (default: list all).", autocompletion=completion.questions),
    ] = None,
    variant: Annotated[
        list[str] | None,
        variant_option("Only this variant, MODEL@RECIPE, or RECIPE if only one model has it. Repeatable."),
    ] = None,
    model: OnlyModels = None,
    recipe: OnlyRecipes = None,
    prompt: OnlyPrompts = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the question's full documentation.")] = False,
    chart: Annotated[
        bool,
        typer.Option("--chart", help="Draw the answer: open it, or write it to -o as png, svg, pdf, html or json."),
    ] = False,
    seconds: Seconds = SECONDS,
    memory: Memory = GIBIBYTES,
    format_: Format = None,
    output: Output = None,
) -> None:
    """Answer one question; standard error says how to read the answer.

    The filters select rows of the answer; they do not change the values in a row. A table shows the first 20 rows,
    every other format has all.

    For example:

    - `prunescope question q07`
    - `prunescope question q11 --recipe wanda-2of4 --explain`
    - `prunescope question q01 --chart -o spikes.svg`
    - `prunescope question q11 --format latex -o flips.tex`
    """
    from prunescope.warehouse.catalogue.question_query import RowFilter, find_question, statement

    if name is None:
        questions(context, chosen_sink(format_, output))
        return
    asked = find_question(name)
    if chart:
        check_chart_path(output, format_)
        sink = Sink(path=output)
    else:
        sink = chosen_sink(format_, output)
    root = existing(context)
    pairs = tuple(variants_of(root, variant or ()))
    row_filter = RowFilter(tuple(model or ()), tuple(recipe or ()), tuple(prompt or ()), pairs)
    query = statement(root, asked, row_filter)
    with sql_process(context, Setup(str(root), memory, query.models)) as process:
        if chart:
            rows = process.ask(query.sql, query.parameters, seconds=seconds)
            count = rows.num_rows
        else:
            layout = {"to": sink.format, "width": sink.width, "lines": _LINES if output is None else TEXT_ROWS}
            limits = {"seconds": seconds, "size": answer_bytes(memory)}
            content, count = process.render(query.sql, query.parameters, **layout, **limits)
    asks = asked.parts["asks"]
    log(asked.header if explain else f"{asks}\n{_reading(count, asked)} (--explain shows more)", "dim")
    if not chart:
        emit_bytes(content, output)
        return
    import polars as pl

    from prunescope.pipelines.reporting.charts import auto_chart

    try:
        specification = auto_chart.draw(asked.name, pl.DataFrame(rows), asked.key, asks).to_dict()
    except InputError as error:
        raise InputError(f"--chart: {error}") from error
    require_data([specification])
    show(specification, asked.name, output)


def _reading(rows: int, view: "View") -> str:
    if not rows:
        return f"no row: the warehouse has no data of {view.parts['inputs']}, or the filters match no row"
    sentence = re.split(r"(?<=[.;:])\s", view.parts["how to read"], maxsplit=1)[0].rstrip(".;:")
    return f"{rows} row{'' if rows == 1 else 's'}, {view.parts['grain'].rstrip('.')}: {sentence}"


def variants(context: typer.Context, sink: Sink) -> None:
    """List the variants: what each recipe removed, which study computed it, and when."""
    from prunescope.warehouse.catalogue.database import connected

    query = """
        SELECT variants.model, weight_format, variants.recipe, method, parameters_removed_share, sparsity,
               len(sublayers_dropped) AS sublayers_dropped, file_bytes, variants.seconds, study,
               created_at::VARCHAR AS created_at
        FROM variants
        LEFT JOIN models ON models.model = variants.model
        JOIN provenance ON table_name = 'variants' AND provenance.model = variants.model
                       AND provenance.recipe = variants.recipe
        ORDER BY variants.model, variants.recipe <> 'dense', variants.recipe
    """
    with connected(existing(context)) as connection:
        rows = connection.sql(query).to_arrow_reader(1000).read_all()  # `to_arrow_table` would import pandas
    emit(rows, sink)


def report(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(help="Name of the study; optional if there is one report.", autocompletion=completion.studies),
    ] = None,
    output: Output = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", "-t", help="Show it in the terminal, without a browser.")
    ] = False,
    variant: Annotated[
        str | None, variant_option("With --terminal and --prompt: show a text of this variant token by token.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="ID", help="With --variant: the prompt that the text answers."),
    ] = None,
    forced: Annotated[
        bool,
        typer.Option("--forced", help="With --prompt: both models read the dense model's text, not the variant's."),
    ] = False,
) -> None:
    """Print the path of a study's report, copy the report with -o, or show it in the terminal.

    For example:

    - `prunescope report demo -o report.html`
    - `prunescope report demo --terminal`
    - `prunescope report demo --terminal --variant wanda-50 --prompt open`
    """
    from prunescope.warehouse.storage.partition_store import Store

    if terminal:
        from prunescope.assets.cli.terminal import show_report

        if output is not None:
            raise InputError("--terminal -o: leave out one of the two; `> FILE` saves what the terminal shows")
        show_report(existing(context), study, variant, prompt, forced=forced)
        return
    if variant is not None or prompt is not None or forced:
        raise InputError("--variant, --prompt and --forced are for --terminal; the page links to these texts")
    if output is not None and output.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"-o {output}: a report is one HTML page; end the name in .html")
    reports = {path.stem: path for path in Store(existing(context)).files("_reports") if path.suffix == ".html"}
    names = ", ".join(reports) or "none yet: run a study first, such as `prunescope run demo`"
    if study is None and len(reports) != 1:
        raise InputError(f"name the study of the report; there are {names}")
    chosen = study if study is not None else next(iter(reports))
    if chosen not in reports:
        hint = did_you_mean(chosen, reports)
        raise InputError(f"there is no report of study {chosen!r}; {hint}there are {names}")
    if output is None:
        put(str(reports[chosen]))
    else:
        write_file(output, reports[chosen].read_bytes())
