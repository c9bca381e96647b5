"""`prunescope report`, `export` and `log`: a study's page, files for a paper, and runs in MLflow."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from prunescope.assets.cli import completion, options
from prunescope.assets.cli.output import log, put, write_file
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.warehouse.core.limits import MAX_ROWS


def report(
    context: typer.Context,
    study: options.AnyStudy = None,
    output: options.Output = None,
    terminal: Annotated[bool, typer.Option("--terminal", "-t")] = False,
    variant: options.VariantOption = None,
    prompt: str | None = None,
    forced: bool = False,
) -> None:
    """Print the path of a study's report, copy the report with -o, or show it in the terminal.

    For example:

    - `prunescope report demo -o report.html`
    - `prunescope report demo --terminal`
    - `prunescope report --variant wanda-50 --prompt open`

    Options:
        study: Name of the study; optional if there is one report.
        terminal: Show it in the terminal, without a browser.
        variant: With --prompt: show a text of this variant in the terminal, coloured token by token.
        prompt (ID): With --variant: the prompt that the text answers.
        forced: With both: the models read the dense model's text, not the variant's.
    """
    from prunescope.warehouse.storage.partition_store import Store

    if terminal or variant is not None or prompt is not None or forced:
        from prunescope.assets.cli.terminal import show_report

        if output is not None:
            raise InputError("--terminal -o: leave out one of the two; `> FILE` saves what the terminal shows")
        show_report(options.existing(context), study, variant, prompt, forced=forced)
        return
    if output is not None and output.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"-o {output}: a report is one HTML page; end the name in .html")
    reports = {path.stem: path for path in Store(options.existing(context)).files("_reports") if path.suffix == ".html"}
    chosen = next(iter(reports)) if study is None and len(reports) == 1 else study
    if chosen not in reports:
        names = ", ".join(reports) or "none yet: run a study first, such as `prunescope run demo`"
        problem = "name the study of the report" if study is None else f"there is no report of study {study!r}"
        raise InputError(f"{problem}; {did_you_mean(study or '', reports)}there are {names}")
    if output is None:
        put(str(reports[chosen]))
    else:
        write_file(output, reports[chosen].read_bytes())


def export(
    context: typer.Context,
    directory: Path,
    study: options.StudyOption = None,
    only: Annotated[list[str], typer.Option(autocompletion=completion.exported)] = (),
    lm_eval: bool = False,
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

    Options:
        directory (DIR): A new or empty folder, or that of an earlier export, whose files it replaces.
        study: Only this study's models and recipes; a name or the path of a YAML file.
        only (NAME): Only this question, mart or figure.
        lm_eval: Write only the task scores, as lm-evaluation-harness does: MODEL@RECIPE/results_TIME.json.
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
        with connected(options.existing(context)) as connection:
            if chosen is not None:
                narrow(connection, {model.name for model in chosen.models}, {recipe.name for recipe in chosen.recipes})
            for file in write_results(connection, directory.expanduser()):
                put(str(file))
        return
    with RichProgress() as bars:
        result = export_all(options.existing(context), directory.expanduser(), only, chosen, bars, all_rows=all_rows)
    log(f"tables and figures: {len(result.items)}; files: {len(result.files)}")
    if result.removed:
        log(f"removed {len(result.removed)} files of the earlier export: {', '.join(result.removed)}", "yellow")
    if result.empty:
        log(f"not written, because without a row: {', '.join(result.empty)}", "dim")
    if result.cut:
        log(f"only the first {MAX_ROWS:,} rows, --all-rows writes the others: {', '.join(result.cut)}", "yellow")
    put(str(directory.expanduser()))


def log_runs(
    context: typer.Context,
    to: Literal["mlflow"] = "mlflow",
    variant: options.VariantOptions = (),
    figure: Annotated[list[str], typer.Option(autocompletion=completion.figures)] = (),
    experiment: str = "prunescope",
    uri: str | None = None,
) -> None:
    """Log each variant as a run of an MLflow experiment: recipe, summary, verdict, scores, report and figures.

    A variant whose results have not changed since it was logged is not logged again. Needs `pip install
    'prunescope[mlflow]'`.

    For example:

    - `prunescope log --to mlflow --uri http://mlflow:5000`
    - `prunescope log --to mlflow --uri sqlite:///mlflow.db --variant mine@wanda-50 --figure generation`

    Options:
        to: Where to: `mlflow`.
        variant: Only this variant, MODEL@RECIPE, or RECIPE if only one model has it (default: all but noise).
        figure (NAME): Add this figure to each run.
        experiment (NAME): The experiment.
        uri (URI): Tracking server, or a database such as `sqlite:///mlflow.db` (default: MLFLOW_TRACKING_URI).
    """
    from prunescope.assets.publishing.tracking import log_variants

    location = options.existing(context)
    with RichProgress() as bars:
        logged, present = log_variants(location, uri, experiment, options.variants_of(location, variant), figure, bars)
    log(f"logged to {to} ({uri or 'its default'}): {len(logged)} new or changed, {len(present)} there already")
    for name in logged:
        put(name)
