"""`prunescope compare` and `prunescope export`: comparisons, tables and figures for a paper."""

# ruff: noqa: ARG001 - the callbacks in options.py read `--warehouse` and `--debug`

from pathlib import Path
from typing import Annotated

import typer

from prunescope.assets.cli import completion
from prunescope.assets.cli.options import Debug, Format, Output, Warehouse, existing
from prunescope.assets.cli.output import chosen_format, emit, log, put
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.warehouse.core.limits import MAX_ROWS

_Variant = Annotated[
    str,
    typer.Argument(
        help="MODEL@RECIPE, or RECIPE if only one model has it.", autocompletion=completion.variants_or_recipes
    ),
]


def compare(
    context: typer.Context,
    a: _Variant,
    b: _Variant,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Compare two variants of one model, paired: perplexity, KL and top token of texts and prompts, answers to tasks.

    difference is B − A. Its error is clustered by windows of a text or by prompts; low and high are its 95 % interval
    (from five clusters on). noise_p95 is the KL that rounding alone causes. In tasks the clusters are samples:
    mcnemar_p tests the samples that only one side answers right, and holm_p corrects it for all tasks and metrics.

    For example:

    - `prunescope compare wanda-50 magnitude-50`
    - `prunescope compare mine@wanda-50 mine@dense -o difference.tex`
    """
    from prunescope.warehouse.catalogue.comparison import compare as compare_variants

    chosen_format(format_, output)
    comparison = compare_variants(existing(context), a, b)
    for reason in comparison.missing:
        log(f"not compared: {reason}", "dim")
    log(
        f"A is {comparison.model}@{comparison.recipe_a}, B is {comparison.model}@{comparison.recipe_b}",
        "dim",
    )
    emit(comparison.rows, format_, output)


def export(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new or empty folder, or that of an earlier export.")
    ],
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            metavar="STUDY",
            help="Only this study's models and recipes; a name or the path of a YAML file.",
            autocompletion=completion.studies,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Only this question, mart or figure. Repeatable.",
            autocompletion=completion.exported,
        ),
    ] = None,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help=f"Write all rows of tables with more than {MAX_ROWS:,} rows.")
    ] = False,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Write tables (LaTeX, Markdown, HTML, CSV, Parquet), figures (SVG, PDF, PNG, Vega-Lite), methods and BibTeX.

    Numbers are rounded by their uncertainty; best and second best are marked; the tables `paper_*` are made for print.
    A manifest has the hash, the SQL and the provenance of every file, and names the tables without a row, which have no
    file. The same warehouse gives the same bytes.

    For example:

    - `prunescope export paper/ --study demo`
    - `prunescope export paper/ --only paper_variants --only q11 --only generation`
    """
    from prunescope.assets.publishing.paper_export import export as export_all
    from prunescope.pipelines.studies import load_study

    chosen = load_study(study) if study is not None else None
    with RichProgress() as bars:
        result = export_all(existing(context), directory.expanduser(), only or (), chosen, bars, all_rows=all_rows)
    log(f"{len(result.items)} tables and figures in {len(result.files)} files")
    if result.empty:
        log(f"not written, because without a row: {', '.join(result.empty)}", "dim")
    if result.cut:
        log(f"only the first {MAX_ROWS:,} rows, --all-rows writes the others: {', '.join(result.cut)}", "yellow")
    put(str(result.directory))
