"""Commands that show results: reports, figures, servers, and files for a paper."""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets.cli import completion, options
from prunescope.assets.cli.output import FAILED, INTERRUPTED, chosen_sink, emit_list, log, put, write_file
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.instance import settings
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.warehouse.core.limits import GIBIBYTES, MAX_ROWS, SECONDS
from prunescope.warehouse.core.program import PACKAGE

if TYPE_CHECKING:
    from prunescope.pipelines.reporting.charts.publication_size import Specification

_FORMATS = ("png", "svg", "pdf", "html", "json")
_PAPER_FORMATS = ("pdf", "png", "svg")
_LOCALHOST = "127.0.0.1"


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
        forced: With --variant and --prompt: show the KL on the dense model's text.
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


def figure(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(autocompletion=completion.figures)] = None,
    model: options.OnlyModels = (),
    recipe: options.OnlyRecipes = (),
    prompt: options.OnlyPrompts = (),
    columns: Annotated[int | None, typer.Option(min=1, max=2)] = None,
    no_title: bool = False,
    dark: bool = False,
    no_published: bool = False,
    explain: bool = False,
    output: options.Output = None,
) -> None:
    """Draw a figure from the warehouse: open it, or write it to -o as png, svg, pdf, html or json.

    If a figure has several charts (by model, lens, prompt, or because of many recipes), each goes into its own file
    next to -o; with --columns, so does each page. The caption goes to standard error; it says what was sampled or
    aggregated.

    For example:

    - `prunescope figure generation --recipe wanda-50 --recipe attn-drop-4 --columns 2 -o generation.pdf`
    - `prunescope figure hierarchy --dark -o slides.png`

    Options:
        name: Name of the figure (default: list all).
        columns: Size in columns of a paper (pdf, svg, png).
        no_title: Omit the title, for a figure with a caption (with --columns).
        dark: Use the dark theme.
        no_published: Omit the published curves (figure drops).
        explain: Show the figure's SQL.
    """
    from prunescope.pipelines.reporting.charts.files import print_files
    from prunescope.pipelines.reporting.charts.registry import FIGURES, find_figure
    from prunescope.warehouse.catalogue.question_query import RowFilter, rows_within

    if name is None:
        rows = [{"figure": registered.name, "shows": registered.title} for registered in FIGURES.values()]
        emit_list(rows, chosen_sink(None, output), figure=str, shows=str)
        return
    chosen = find_figure(name)
    check_chart_path(output, option="")
    format_ = None if output is None else output.suffix.lower().removeprefix(".")
    if columns is not None and format_ not in _PAPER_FORMATS:
        raise InputError(
            f"--columns {columns}: only files for paper have a width; add -o FILE.{', .'.join(_PAPER_FORMATS)}"
        )
    if no_title and columns is None:
        raise InputError("--no-title: only files for paper have a caption in its place; add --columns 1 or 2")
    row_filter = RowFilter(tuple(model), tuple(recipe), tuple(prompt))
    frame = rows_within(options.existing(context), chosen.query, row_filter)
    if no_published:
        if "publication" not in frame.columns:
            raise InputError(f"--no-published: figure {name} has no published curves; leave the option out")
        frame = frame.filter(frame["publication"].is_null())
    drawings = list(chosen.draw_all(frame))
    require_data([drawing.specification for drawing in drawings])
    log(chosen.caption + (f"\n\n{chosen.query}" if explain else ""), "dim")
    if output is None:
        show_chart(drawings[0].specification, drawings[0].name, None, dark=dark)
        if len(drawings) > 1:
            log(f"this is the first of {len(drawings)} charts; -o FILE writes all of them")
        return
    for drawing in drawings:
        stem = output.stem + (drawing.name.removeprefix(name) if len(drawings) > 1 else "")
        if columns is None:
            contents = {"": _rendered(drawing.specification, drawing.name, str(format_), dark=dark)}
        else:
            pages = chosen.printed(drawing, columns, is_dark=dark, has_title=not no_title)
            if no_title:
                said = drawing.specification["title"].get("subtitle") or drawing.title
                log(f"{stem}: {said if isinstance(said, str) else '; '.join(said)}", "dim")  # for the caption
            contents = print_files(pages, format_)  # type: ignore[arg-type] - checked above
        for suffix, content in contents.items():
            write_file(output.with_name(f"{stem}{suffix}{output.suffix}"), content)


def serve(
    context: typer.Context,
    study: options.AnyStudy = None,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535)] = 3001,
    seconds: options.Seconds = SECONDS,
    memory: options.Memory = GIBIBYTES,
) -> None:
    """Serve the explorer of the live warehouse, with a box for your own SQL. Ctrl-C stops it.

    The pages are those of `prunescope report`, with every prompt of every variant; a reload shows new results.
    SQL has the limits of `prunescope sql`; --seconds and --memory apply to each query. There is no password: from
    another machine, connect with `ssh -L 3001:127.0.0.1:3001 MACHINE`.

    For example: `prunescope serve demo --port 8000`

    Options:
        study: A study or its YAML file (default: all with results here).
        port: Port; 0 chooses a free one.
    """
    from prunescope.assets.publishing.live_study import StudyRegistry
    from prunescope.assets.publishing.server import application, server

    root = options.existing(context)
    studies = StudyRegistry(root, study)
    with _listening_socket(port) as listening:
        app = application(studies, seconds=seconds, gibibytes=memory, log=lambda line: log(f"error: {line}", "red"))
        place = f"http://{_LOCALHOST}:{listening.getsockname()[1]}/"
        log(f"{place} shows {', '.join(studies.known)} of {root}; Ctrl-C stops it")
        try:
            server(app, is_debugged=context.ensure_object(options.Globals).debug).run([listening])
        except KeyboardInterrupt:
            log("stopped")
            raise SystemExit(INTERRUPTED) from None  # a `typer.Exit` would say that there is work to continue


def ui(context: typer.Context, port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535)] = 3000) -> None:
    """Open Dagster's web interface on 127.0.0.1: assets, lineage, charts, runs. Ctrl-C stops it.

    There is no password. From another machine, connect with `ssh -L 3000:127.0.0.1:3000 MACHINE`, or through a proxy
    with authentication as in SECURITY.md.

    Options:
        port: Port on 127.0.0.1.
    """
    from prunescope.assets.instance.instance import open_instance, plain_path, prepare_home, recover
    from prunescope.assets.watching.watch_list import make_models_folder

    store = options.writable(context)
    _listening_socket(port).close()
    make_models_folder(store)
    local = store.local(settings.cache_folder())
    home = plain_path(prepare_home(local))
    with open_instance(local) as instance:
        recover(instance, str(store.root), local)
    log(f"http://{_LOCALHOST}:{port}/asset-groups shows the lineage of {store.root}; Ctrl-C stops it")
    command = [sys.executable, "-W", "ignore", "-m", "prunescope.assets.publishing.interface.subprocesses", "dev"]
    command += ["--module-name", "prunescope.assets.definitions", "--working-directory", str(PACKAGE.parent)]
    level = "info" if context.ensure_object(options.Globals).debug else "warning"
    command += ["--host", _LOCALHOST, "--port", str(port), "--log-level", level]
    # The current folder changes below.
    own = {"PRUNESCOPE_WAREHOUSE": str(store.root), "DAGSTER_HOME": str(home), "PYTHONPATH": settings.python_path()}
    # In the current folder of a checkout, Dagster would take dagster.yaml for a second configuration.
    os.chdir(home)
    # Dagster replaces this process, so that it receives the signals and stops its servers in order.
    os.execve(sys.executable, command, os.environ | own)  # noqa: S606 - no shell


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
    A manifest has the hash, the SQL and the provenance of every file, and names the tables without rows, which have no
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
        log(f"not written, because they have no rows: {', '.join(result.empty)}", "dim")
    if result.cut:
        log(f"only the first {MAX_ROWS:,} rows, --all-rows writes the others: {', '.join(result.cut)}", "yellow")
    put(str(directory.expanduser()))


def check_chart_path(output: Path | None, format_: str | None = None, option: str = "--chart ") -> None:
    """Check before any query that a chart can be written to a file of this name."""
    if format_ is not None:
        raise InputError(f"--chart --format {format_}: that is for rows; the suffix of -o gives the chart's format")
    if output is not None and output.suffix.lower().removeprefix(".") not in _FORMATS:
        raise InputError(f"{option}-o {output}: end the name in .{', .'.join(_FORMATS)}")


def require_data(charts: Sequence["Specification"]) -> None:
    """Log the reason and end the command if all charts are empty."""
    from prunescope.pipelines.reporting.charts.theme import missing

    reasons = [missing(chart) for chart in charts]
    if None not in reasons:
        log(
            f"no data: {reasons[0]}; run a study that measures it, or drop the filters",
            "red",
        )
        raise typer.Exit(FAILED)


def show_chart(chart: "Specification", name: str, output: Path | None, *, dark: bool = False) -> None:
    """Write the chart to the file, or to a temporary page that the browser opens if there is a screen."""
    if output is not None:
        write_file(output, _rendered(chart, name, output.suffix.lower().removeprefix("."), dark=dark))
        return
    import tempfile
    import webbrowser

    page = Path(tempfile.mkdtemp(prefix="prunescope-")) / f"{name}.html"
    page.write_bytes(_rendered(chart, name, "html", dark=dark))
    if not (settings.has_screen() and webbrowser.open(page.as_uri())):
        log(f"the chart is in {page}; -o FILE.png writes it to a file of your choice")


def _rendered(chart: "Specification", name: str, format_: str, *, dark: bool = False) -> bytes:
    """Return the content of the chart's file, of the size as drawn."""
    from prunescope.pipelines.reporting.charts import theme
    from prunescope.pipelines.reporting.charts.files import chart_file
    from prunescope.pipelines.reporting.charts.html import chart_page

    specification = theme.dressed(chart, dark=dark)
    if format_ == "html":
        return chart_page(specification, name)
    if format_ == "json":
        return theme.vega_lite(specification)
    return chart_file(specification, format_)  # type: ignore[arg-type]


def _listening_socket(port: int) -> socket.socket:
    try:
        return socket.create_server((_LOCALHOST, port))
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise InputError(f"{_LOCALHOST}, port {port} cannot be used ({reason}); choose another with --port") from error
