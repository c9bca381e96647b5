"""`prunescope figure`, and the output of charts to a file or to the browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion, options
from prunescope.assets.cli.output import FAILED, chosen_sink, emit_list, log, write_file
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    from prunescope.pipelines.reporting.charts.publication_size import Specification

_FORMATS = ("png", "svg", "pdf", "html", "json")
_PAPER_FORMATS = ("pdf", "png", "svg")


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

    - `prunescope figure`
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
        show(drawings[0].specification, drawings[0].name, None, dark=dark)
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


def show(chart: "Specification", name: str, output: Path | None, *, dark: bool = False) -> None:
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
