"""Commands that answer questions: recipes, SQL, tables, questions, variants, comparisons and verdicts of probes."""

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets.cli import completion, options
from prunescope.assets.cli.output import Sink, chosen_sink, emit, emit_bytes, emit_list, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.cli.show import check_chart_path, require_data, show_chart
from prunescope.assets.cli.study import end, request_of
from prunescope.assets.instance import settings
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.quoting import quoted
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.core.verdict_rule import MIN_UNITS, TOLERANCE
from prunescope.warehouse.catalogue.sql_process import Setup
from prunescope.warehouse.core.limits import GIBIBYTES, SECONDS, TEXT_ROWS

if TYPE_CHECKING:
    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.warehouse.catalogue.view import View
    from prunescope.warehouse.storage.partition_store import Store

# Rows of an answer in format table: what a screen holds; the other formats have all.
_LINES = 20
# The study that gives recipes and prompts if no other one does.
_PROBES = "advise"


def recipes(sink: Sink, method: Annotated[str | None, typer.Argument()] = None) -> None:
    """List the recipes. Their numbers may be changed; recipes joined by `+` are applied one after the other.

    Every parameter of a method can be set in a study's YAML, or as in the last example.

    For example:

    - `prunescope recipes sparsegpt`
    - `prunescope run demo --recipe attn-drop-4+wanda-50`
    - `prunescope run demo --recipe "{name: mine, method: wanda, sparsity: 0.6, modules: [mlp]}"`

    Options:
        method: A method such as `wanda`, to list all its parameters.
    """
    import pyarrow as pa

    from prunescope.pipelines.recipes.listing import recipe_forms, recipe_parameters, recipe_text

    emit(pa.Table.from_pylist(recipe_forms() if method is None else recipe_parameters(method)), sink)
    if method is not None:
        log(recipe_text(method))


def sql(
    context: typer.Context,
    sink: Sink,
    query: str,
    seconds: options.Seconds = SECONDS,
    memory: options.Memory = GIBIBYTES,
) -> None:
    """Query the warehouse in SQL (DuckDB's dialect). Read-only: no files, no network, no settings.

    For example:

    - `prunescope sql "SELECT recipe, kl_step0_nats FROM variant_summary ORDER BY 2"`
    - `prunescope sql "FROM layer_summary" -o layers.parquet`
    - `prunescope sql - --format csv < mine.sql`

    Options:
        query: One SELECT, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN; `-` reads it from standard input.
    """
    text = sys.stdin.read() if query == "-" else query
    with options.sql_process(context, Setup(str(options.existing(context)), memory)) as process:
        content, _ = process.render(text, to=sink.format, width=sink.width, seconds=seconds)
    emit_bytes(content, sink.path)


def tables(context: typer.Context, sink: Sink) -> None:
    """List tables and views with their rows and keys; `prunescope describe NAME` lists the columns."""
    from prunescope.warehouse.catalogue.database import view_sql
    from prunescope.warehouse.storage.partition_store import Store
    from prunescope.warehouse.tables import TABLES

    store, rows = Store(options.existing(context)), []
    for table in TABLES.values():
        counts = [footer.rows for _, footer in store.footers(table)]
        about = {"name": table.name, "kind": "table", "about": table.grain, "key": ", ".join(table.key)}
        rows.append(about | {"partitions": len(counts), "rows": sum(counts)})
    for view in sorted(view_sql().values(), key=lambda view: (view.layer, view.name)):
        if view.layer != "staging":
            about = {"name": view.name, "kind": view.layer, "about": view.parts["asks"]}
            rows.append(about | {"key": ", ".join(view.key)})
    emit_list(rows, sink, name=str, kind=str, partitions=int, rows=int, about=str, key=str)


def describe(
    context: typer.Context, sink: Sink, name: Annotated[str, typer.Argument(autocompletion=completion.relations)]
) -> None:
    """Explain the columns of a table or view: type, unit, formula, source.

    For example: `prunescope describe layer_transitions`

    Options:
        name: A table or view, see `prunescope tables`.
    """
    from prunescope.warehouse.catalogue.column_docs import PROVENANCE_COLUMNS, explain
    from prunescope.warehouse.catalogue.database import PROVENANCE, PROVENANCE_COMMENT, connected, view_sql
    from prunescope.warehouse.catalogue.lineage import questions as question_views
    from prunescope.warehouse.catalogue.view import joins
    from prunescope.warehouse.tables import TABLES

    documented = explain(view_sql().values()) | {PROVENANCE: PROVENANCE_COLUMNS}
    numbers = {view.partition("_")[0]: view for view in question_views()}
    name = numbers.get(name.lower(), name if name in documented else name.lower())
    if name not in documented:
        hint = did_you_mean(name, documented)
        raise InputError(f"there is no table or view {name!r}; {hint}see `prunescope tables`")
    with connected(options.existing(context)) as connection:
        relation = connection.sql(f"SELECT * FROM {quoted(name)}")  # noqa: S608 - checked above
        columns = dict(zip(relation.columns, map(str, relation.types), strict=True))
    rows = []
    for column, type_ in columns.items():
        doc = documented[name][column]
        about = {"unit": doc.unit, "formula": doc.formula, "about": doc.doc, "source": doc.source}
        rows.append({"column": column, "type": type_} | about)
    if table := TABLES.get(name):
        log("\n".join([table.grain, f"key: {', '.join(table.key)}", *map(str, table.references)]), "dim")
    else:
        log(PROVENANCE_COMMENT if name == PROVENANCE else view_sql()[name].header, "dim")
    keys = {other.name: other.key for other in TABLES.values()}
    keys |= {view.name: view.key for view in view_sql().values() if view.layer == "marts"}
    found = joins(name, list(columns), keys)
    if lines := [f"  LEFT JOIN {other} USING ({', '.join(using)})" for other, using in found.items()]:
        log("\n".join(["joins that add columns and never rows:", *lines]), "dim")
    if table and table.example:
        log(f"for example:\n{textwrap.indent(table.example, '  ')}", "dim")
    emit_list(rows, sink, column=str, type=str, unit=str, formula=str, about=str, source=str)


def questions(sink: Sink) -> None:
    """List the questions that the warehouse answers; `prunescope question q01` answers one."""
    from prunescope.warehouse.catalogue.lineage import questions as question_views

    rows = [{"question": name, "asks": view.header.partition("\n")[0]} for name, view in question_views().items()]
    emit_list(rows, sink, question=str, asks=str)


def question(
    context: typer.Context,
    name: Annotated[str, typer.Argument(autocompletion=completion.questions)],
    variant: options.VariantOptions = (),
    model: options.OnlyModels = (),
    recipe: options.OnlyRecipes = (),
    prompt: options.OnlyPrompts = (),
    explain: bool = False,
    chart: bool = False,
    seconds: options.Seconds = SECONDS,
    memory: options.Memory = GIBIBYTES,
    format_: options.Format = None,
    output: options.Output = None,
) -> None:
    """Answer one question; standard error says how to read the answer.

    The filters select rows of the answer; they do not change the values in a row. A table shows the first 20 rows,
    every other format has all.

    For example:

    - `prunescope question q11 --recipe wanda-2of4 --explain`
    - `prunescope question q01 --chart -o spikes.svg`
    - `prunescope question q11 --format latex -o flips.tex`

    Options:
        name: Number or name, such as `q01`; `prunescope questions` lists all.
        variant: Only this variant, MODEL@RECIPE, or RECIPE if only one model has it.
        explain: Show the question's full documentation.
        chart: Draw the answer: open it, or write it to -o as png, svg, pdf, html or json.
    """
    from prunescope.warehouse.catalogue.question_query import RowFilter, find_question, statement

    asked = find_question(name)
    if chart:
        check_chart_path(output, format_)
    sink = Sink() if chart else chosen_sink(format_, output)
    root = options.existing(context)
    row_filter = RowFilter(tuple(model), tuple(recipe), tuple(prompt), tuple(options.variants_of(root, variant)))
    query = statement(root, asked, row_filter)
    with options.sql_process(context, Setup(str(root), memory, query.models)) as process:
        if chart:
            rows = process.ask(query.sql, query.parameters, seconds=seconds)
            count = rows.num_rows
        else:
            layout = {"to": sink.format, "width": sink.width, "lines": _LINES if output is None else TEXT_ROWS}
            content, count = process.render(query.sql, query.parameters, **layout, seconds=seconds)
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
    show_chart(specification, asked.name, output)


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
    with connected(options.existing(context)) as connection:
        rows = connection.sql(query).to_arrow_reader(1000).read_all()  # `to_arrow_table` would import pandas
    emit(rows, sink)


def compare(context: typer.Context, sink: Sink, a: options.Variant, b: options.Variant) -> None:
    """Compare two variants of one model, paired: perplexity, KL and top token of texts and prompts, answers to tasks.

    difference is B − A. Its error is clustered by windows of a text or by prompts; low and high are its 95 % interval
    (from two clusters on). noise_p95 is the KL that rounding alone causes. In tasks the clusters are samples:
    mcnemar_p tests the samples that only one side answers right, and holm_p corrects it for all tasks and metrics.

    For example:

    - `prunescope compare wanda-50 magnitude-50`
    - `prunescope compare mine@wanda-50 mine@dense -o difference.tex`
    """
    from prunescope.warehouse.catalogue.comparison import compare as compare_variants

    comparison = compare_variants(options.existing(context), a, b)
    for reason in comparison.missing:
        log(f"not compared: {reason}", "dim")
    log(f"A is {comparison.model}@{comparison.recipe_a}, B is {comparison.model}@{comparison.recipe_b}", "dim")
    emit(comparison.rows, sink)


def advise(
    context: typer.Context,
    sink: Sink,
    model: str,
    study: options.StudyOption = None,
    recipe: options.Recipes = (),
    replace: options.Replace = False,
    tolerance: Annotated[float, typer.Option(min=0, max=1)] = TOLERANCE,
) -> None:
    """Judge which recipes a model tolerates, before any task is run, as far as the evidence allows.

    Probes the model with short prompts under every recipe, unless that was done before. Predicts the losses in tasks
    from other models of the warehouse that have scores, if the prompts' own answers are too few; the output says what
    is missing.

    For example:

    - `prunescope advise ./my-model --recipe wanda-50 --recipe attn-drop-4 --tolerance 0.2`
    - `prunescope advise smollm2-135m-instruct --study paper-small`

    Options:
        model: A folder with safetensors, a .gguf file, a hub id, `NAME=MODEL`, or a model of the warehouse.
        study: Study that gives recipes and prompts (default: the one that computed the model, else `advise`).
        tolerance: Acceptable loss, as a share of the dense model's skill, from 0 to 1.
    """
    import polars as pl

    from prunescope.assets.planning.steps import PROBE_TABLES
    from prunescope.assets.runs.start import run_study
    from prunescope.pipelines.reporting.advice import advise as judge
    from prunescope.warehouse.catalogue.queries import PREDICTED_LOSSES, comparison_rows, query_rows
    from prunescope.warehouse.storage.partition_store import Store

    # A model's name needs an existing warehouse; any other model is probed, into a new one if necessary.
    location = options.existing(context) if _is_name(model) else options.root(context)
    request, reason = _probe_request(model, study, recipe, Store(location))
    home = settings.cache_folder() / "advise" if reason else location
    if reason:
        log(f"{reason}; the prompts of study {_PROBES} are probed instead, with results in {home}")
    with RichProgress() as bars:
        outcome = run_study(request, home, bars, replace=replace, tables=PROBE_TABLES)
    name = outcome.study.models[0].name
    recipes = [recipe.name for recipe in outcome.study.recipes if recipe.method not in {"dense", "noise"}]
    verdicts = pl.DataFrame(comparison_rows(home, "advise", name, recipes, tolerance))
    notes = judge(verdicts, pl.DataFrame(query_rows(location, PREDICTED_LOSSES, model=name)), tolerance)
    columns = [column.name for column in verdicts if sink.format != "table" or column.null_count() < len(column)]
    emit(verdicts.select(columns).to_arrow(), sink)
    for line in notes:
        log(line)
    end(context, outcome.failures)


def _is_name(model: str) -> bool:
    """Return whether this is the name of a model of the warehouse, and not the source of one."""
    from prunescope.pipelines.models.embedded import embedded_model

    return not {"/", "="} & set(model) and not Path(model).exists() and embedded_model(model) is None


def _probe_request(model: str, study: str | None, recipes: Sequence[str], store: "Store") -> "tuple[StudyRequest, str]":
    """Return the request of the probes: that of the study that computed the model, if any, so that it reuses results.

    Returns:
        The request, and the reason for storing its results outside of the warehouse: the study that computed the
        model asks too few questions for a verdict, and its results must not change. Empty if there is no such reason.
    """
    from prunescope.pipelines.studies import load_study, study_names
    from prunescope.warehouse.tables import TABLES

    [spec] = load_study(_PROBES).replaced([model], []).models
    provenance = store.provenance(TABLES["models"], spec.name, None)
    if study is None and provenance is not None and provenance.study not in study_names():
        raise InputError(f"model {spec.name} was computed by study {provenance.study!r}; name its file with --study")
    chosen, reason = study or (provenance.study if provenance else _PROBES), ""
    questions = sum(prompt.kind == "choice" for prompt in load_study(chosen).prompts)
    if study is None and questions < MIN_UNITS:
        asked = f"asks {questions} of the {MIN_UNITS} questions that a verdict needs"
        chosen, reason = _PROBES, f"study {chosen}, which computed {spec.name}, {asked}"
    loaded = load_study(chosen)
    if not loaded.prompts:
        raise InputError(f"study {chosen}: `prompts` is empty, and probes need prompts; name another with --study")
    if provenance and _is_name(model) and model not in {known.name for known in loaded.models}:
        source = store.read(TABLES["models"], model, None)["source"][0].as_py()
        model = f"{model}={source}"
    return request_of(chosen, [model], recipes), reason
