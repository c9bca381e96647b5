"""`prunescope compare`, `export`, `import-lm-eval` and `log`: comparisons, files for a paper, lm-eval and MLflow."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import Variant, existing, study_option, variant_option, variants_of
from prunescope.assets.cli.output import WRONG_INPUT, Sink, emit, log, put
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.limits import MAX_ROWS

# A larger file is none of results: those of all tasks of the harness have a few MB.
_MAX_RESULTS_BYTES = 100_000_000


def compare(
    context: typer.Context,
    sink: Sink,
    a: Variant,
    b: Variant,
) -> None:
    """Compare two variants of one model, paired: perplexity, KL and top token of texts and prompts, answers to tasks.

    difference is B − A. Its error is clustered by windows of a text or by prompts; low and high are its 95 % interval
    (from two clusters on). noise_p95 is the KL that rounding alone causes. In tasks the clusters are samples:
    mcnemar_p tests the samples that only one side answers right, and holm_p corrects it for all tasks and metrics.

    For example:

    - `prunescope compare wanda-50 magnitude-50`
    - `prunescope compare mine@wanda-50 mine@dense -o difference.tex`
    """
    from prunescope.warehouse.catalogue.comparison import compare as compare_variants

    comparison = compare_variants(existing(context), a, b)
    for reason in comparison.missing:
        log(f"not compared: {reason}", "dim")
    log(f"A is {comparison.model}@{comparison.recipe_a}, B is {comparison.model}@{comparison.recipe_b}", "dim")
    emit(comparison.rows, sink)


def export(
    context: typer.Context,
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A new or empty folder, or that of an earlier export, whose files it replaces."
        ),
    ],
    study: Annotated[
        str | None, study_option("Only this study's models and recipes; a name or the path of a YAML file.")
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
    lm_eval: Annotated[
        bool,
        typer.Option(
            "--lm-eval",
            help="Write only the task scores, as lm-evaluation-harness does: MODEL@RECIPE/results_TIME.json.",
        ),
    ] = False,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help=f"Write all rows of tables with more than {MAX_ROWS:,} rows.")
    ] = False,
) -> None:
    """Write tables (LaTeX, Markdown, HTML, CSV, Parquet), figures (SVG, PDF, PNG, Vega-Lite), methods and BibTeX.

    Numbers are rounded by their uncertainty; best and second best are marked; the tables `paper_*` are made for print.
    A manifest has the hash, the SQL and the provenance of every file, and names the tables without a row, which have no
    file. The same warehouse gives the same bytes.

    For example:

    - `prunescope export paper/ --study demo`
    - `prunescope export paper/ --only paper_variants --only q11 --only generation`
    - `prunescope export results/ --lm-eval`
    """
    from prunescope.assets.publishing.paper_export import export as export_all
    from prunescope.pipelines.studies import load_study

    chosen = load_study(study) if study is not None else None
    if lm_eval:
        from prunescope.warehouse.catalogue.database import connected
        from prunescope.warehouse.catalogue.scope import narrow
        from prunescope.warehouse.export.lm_eval_results import write_results

        if only or all_rows:
            raise InputError("--lm-eval writes all task scores; leave out --only and --all-rows")
        with connected(existing(context)) as connection:
            if chosen is not None:
                narrow(connection, {model.name for model in chosen.models}, {recipe.name for recipe in chosen.recipes})
            files = write_results(connection, directory.expanduser())
        for file in files:
            put(str(file))
        return
    with RichProgress() as bars:
        result = export_all(existing(context), directory.expanduser(), only or (), chosen, bars, all_rows=all_rows)
    log(f"tables and figures: {len(result.items)}; files: {len(result.files)}")
    if result.removed:
        log(f"removed {len(result.removed)} files of the earlier export: {', '.join(result.removed)}", "yellow")
    if result.empty:
        log(f"not written, because without a row: {', '.join(result.empty)}", "dim")
    if result.cut:
        log(f"only the first {MAX_ROWS:,} rows, --all-rows writes the others: {', '.join(result.cut)}", "yellow")
    put(str(result.directory))


def import_lm_eval(
    context: typer.Context,
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS", help="Files results_*.json that lm-evaluation-harness wrote.")
    ],
    variant: Annotated[
        str | None,
        variant_option(
            "The variant that all files are of, or RECIPE if only one model has it; `dense` is the dense model "
            "(default: what `model_args` in each file names)."
        ),
    ] = None,
) -> None:
    """Read scores that lm-evaluation-harness measured into the warehouse, next to ours and the KL of the variant.

    They become rows of `imported_scores`, and the view `imported_comparisons` joins them with ours. A file that names a
    dense model of the warehouse, by source or path, or a folder that `prunescope checkpoint` wrote, on this machine,
    needs no --variant. A file that is there already changes nothing; if any file is wrong, none is imported.

    For example:

    - `prunescope import-lm-eval out/*/results_*.json`
    - `prunescope import-lm-eval results_2026-01-31T12-00-00.json --variant mine@wanda-50`
    """
    from prunescope.assets.instance.file_lock import locked
    from prunescope.pipelines.core.regular_files import open_regular
    from prunescope.warehouse.export.lm_eval_import import evaluated_variant, import_results, parse_results
    from prunescope.warehouse.storage.partition_store import Store

    store = Store(existing(context))
    given = variants_of(store.root, [variant])[0] if variant is not None else None
    found, is_whole = [], True
    for path in results:
        try:
            with open_regular(path.expanduser(), _MAX_RESULTS_BYTES, "a results file") as file:
                parsed = parse_results(str(path), file.read())
            found.append((parsed, given or evaluated_variant(parsed, store)))
        except (InputError, WarehouseError, OSError) as error:
            is_whole = False
            message = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            log(f"error: {' '.join(message.split())}", "red")
    if not is_whole:
        raise typer.Exit(WRONG_INPUT)
    with locked(store.local(settings.cache_folder()) / "_import_lock", lambda holder: log(f"waiting for {holder}")):
        added = import_results(store, found)
    for (parsed, pair), rows in zip(found, added, strict=True):
        log(f"{parsed.file}: {rows} scores of {'@'.join(pair)}" if rows else f"{parsed.file}: is there already")
    log("`prunescope sql 'from imported_comparisons'` shows them next to ours")


def log_runs(
    context: typer.Context,
    to: Annotated[Literal["mlflow"], typer.Option("--to", help="Where to: `mlflow`.")] = "mlflow",
    variant: Annotated[
        list[str] | None,
        variant_option(
            "Only this variant, MODEL@RECIPE, or RECIPE if only one model has it (default: all but noise). Repeatable."
        ),
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            "--figure",
            metavar="NAME",
            help="Add this figure to each run. Repeatable.",
            autocompletion=completion.figures,
        ),
    ] = None,
    experiment: Annotated[str, typer.Option("--experiment", metavar="NAME", help="The experiment.")] = "prunescope",
    uri: Annotated[
        str | None,
        typer.Option(
            "--uri",
            metavar="URI",
            help="Tracking server, or a database such as `sqlite:///mlflow.db` (default: MLFLOW_TRACKING_URI).",
        ),
    ] = None,
) -> None:
    """Log each variant as a run of an MLflow experiment: recipe, summary, verdict, scores, report and figures.

    A variant whose results have not changed since it was logged is not logged again. Needs `pip install
    'prunescope[mlflow]'`.

    For example:

    - `prunescope log --to mlflow --uri http://mlflow:5000`
    - `prunescope log --to mlflow --uri sqlite:///mlflow.db --variant mine@wanda-50 --figure generation`
    """
    from prunescope.assets.publishing.tracking import log_variants

    location = existing(context)
    with RichProgress() as bars:
        logged, present = log_variants(
            location, uri, experiment, variants_of(location, variant or ()), figure or (), bars
        )
    log(f"logged to {to} ({uri or 'its default'}): {len(logged)} new or changed, {len(present)} there already")
    for name in logged:
        put(name)
