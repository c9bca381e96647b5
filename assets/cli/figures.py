"""`prunescope figure`, and where a chart goes: to a file of the user's, or to the browser.

What a chart shows is the business of `prunescope.pipelines.reporting.charts`.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.narrowing import OnlyModels, OnlyPrompts, OnlyRecipes
from prunescope.assets.cli.options import Debug, Output, Warehouse, existing
from prunescope.assets.cli.output import emit, log, write_file
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    from prunescope.pipelines.reporting.charts.publication_size import Specification

_FORMATS = ("png", "svg", "pdf", "html", "json")
_PRINTED = ("pdf", "png", "svg")
FAILED = 1


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(figure)


def figure(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A figure; without one they are listed.", autocompletion=completion.figures)
    ] = None,
    model: OnlyModels = None,
    recipe: OnlyRecipes = None,
    prompt: OnlyPrompts = None,
    columns: Annotated[
        int | None,
        typer.Option("--columns", min=1, max=2, help="As wide as one or two columns of a paper (pdf, svg, png)."),
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="For a dark screen.")] = False,
    no_published: Annotated[
        bool, typer.Option("--no-published", help="Without the published curves behind ours (drops).")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the SQL that feeds it.")] = False,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Draw a figure from the warehouse: opened, or written to -o as png, svg, pdf, html or json.

    Where it has several charts (of models, lenses, prompts, or of many recipes), each goes into a file of its own,
    beside -o. The caption goes to standard error; it says what was sampled or aggregated.

    For example:

    - `prunescope figure`
    - `prunescope figure generation --recipe wanda-50 --recipe attn-drop-4 --columns 2 -o generation.pdf`
    - `prunescope figure hierarchy --dark -o slides.png`
    """
    import pyarrow as pa

    from prunescope.pipelines.reporting.charts.registry import FIGURES, find_figure
    from prunescope.warehouse.catalogue.question_query import RowFilter, rows_within

    if name is None:
        listed = [{"figure": each.name, "shows": each.title} for each in FIGURES.values()]
        emit(pa.Table.from_pylist(listed), None, output)
        return
    chosen = find_figure(name)
    check_place(output, asked_by="")
    format_ = None if output is None else output.suffix.lower().removeprefix(".")
    if columns is not None and format_ not in _PRINTED:
        raise InputError(f"--columns {columns}: that is for paper; give it -o FILE.{', .'.join(_PRINTED)}")
    wanted = RowFilter(tuple(model or ()), tuple(recipe or ()), tuple(prompt or ()), ())
    rows = rows_within(existing(context), chosen.query, wanted)
    if no_published:
        if "publication" not in rows.columns:
            raise InputError(f"--no-published: figure {name} has no published curves; leave it out")
        rows = rows.filter(rows["publication"].is_null())
    drawings = list(chosen.draw_all(rows))
    require_data([drawing.specification for drawing in drawings])
    log(chosen.caption + (f"\n\n{chosen.query}" if explain else ""), "dim")
    if output is None:
        show(drawings[0].specification, drawings[0].name, None, dark=dark)
        if len(drawings) > 1:
            log(f"this is the first of {len(drawings)} charts; -o FILE writes all of them")
        return
    for drawing in drawings:
        suffix = drawing.name.removeprefix(name) if len(drawings) > 1 else ""
        content = _rendered(drawing.specification, drawing.name, str(format_), dark=dark, columns=columns)
        write_file(output.with_name(f"{output.stem}{suffix}{output.suffix}"), content)


def check_place(output: Path | None, format_: str | None = None, asked_by: str = "--chart ") -> None:
    """Refuses a file whose name says no format of a picture, and a format of rows, before anything is computed.

    Raises:
        InputError: it is so.
    """
    if format_ is not None:
        raise InputError(f"--chart --format {format_}: that is for rows; the name of -o says the format of a picture")
    if output is not None and output.suffix.lower().removeprefix(".") not in _FORMATS:
        raise InputError(f"{asked_by}-o {output}: end the name in .{', .'.join(_FORMATS)}")


def require_data(charts: Sequence["Specification"]) -> None:
    """Ends the command where no chart shows anything, so that no empty picture passes for an answer.

    Raises:
        typer.Exit: it is so; the reason was told.
    """
    from prunescope.pipelines.reporting.charts.theme import missing

    reasons = [missing(chart) for chart in charts]
    if None not in reasons:
        log(
            f"no data: {reasons[0]}; run a study that measures it, such as `prunescope run paper-small`, or ask "
            "without filters",
            "red",
        )
        raise typer.Exit(FAILED)


def show(chart: "Specification", name: str, output: Path | None, *, dark: bool = False) -> None:
    """Writes the chart to the file, or to a temporary page that the browser opens where there is a screen.

    Raises:
        InputError: the system refused the file.
    """
    if output is not None:
        write_file(output, _rendered(chart, name, output.suffix.lower().removeprefix("."), dark=dark))
        return
    import tempfile
    import webbrowser

    page = Path(tempfile.mkdtemp(prefix="prunescope-")) / f"{name}.html"
    page.write_bytes(_rendered(chart, name, "html", dark=dark))
    if not (settings.has_screen() and webbrowser.open(page.as_uri())):
        log(f"the chart is {page}; -o FILE.png writes it elsewhere")


def _rendered(
    chart: "Specification", name: str, format_: str, *, dark: bool = False, columns: int | None = None
) -> bytes:
    """The chart as a file; a page holds its script and asks no other machine.

    Raises:
        InputError: so narrow, the type could not be read.
    """
    from prunescope.pipelines.reporting.charts import theme
    from prunescope.pipelines.reporting.charts.files import chart_file
    from prunescope.pipelines.reporting.charts.html import chart_page

    specification = theme.dressed(chart, dark=dark)
    if format_ == "html":
        return chart_page(specification, name)
    if format_ == "json":
        return theme.vega_lite(specification)
    return chart_file(specification, format_, columns)  # type: ignore[arg-type]
