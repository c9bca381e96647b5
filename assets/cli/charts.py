"""Where a chart goes: to a file of the user's, or to the browser.

What it shows is the business of `pipelines.charts`.
"""

import io
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from assets import settings
from assets.cli.output import say, write_file
from pipelines.errors import InputError

if TYPE_CHECKING:
    from pipelines.charts.theme import AnyChart

_FORMATS = ("png", "svg", "pdf", "html", "json")


def check_place(output: Path | None, format_: str | None = None) -> None:
    """Refuses a file whose name says no format of a picture, and a format of rows, before anything is computed.

    Raises:
        InputError: it is so.
    """
    if format_ is not None:
        raise InputError(f"--chart --format {format_}: that is for rows; the name of -o says the format of a picture")
    if output is not None and output.suffix.lower().removeprefix(".") not in _FORMATS:
        raise InputError(f"--chart -o {output}: end the name in .{', .'.join(_FORMATS)}")


def show(chart: "AnyChart", name: str, output: Path | None) -> None:
    """Writes the chart to the file, or to a temporary page that the browser opens where there is a screen.

    Raises:
        InputError: the system refused the file.
    """
    if output is not None:
        write_file(output, _rendered(chart, output.suffix.lower().removeprefix(".")))
        return
    page = Path(tempfile.mkdtemp(prefix="prunescope-")) / f"{name}.html"
    page.write_bytes(_rendered(chart, "html"))
    if not (settings.has_screen() and webbrowser.open(page.as_uri())):
        say(f"the chart is {page}; -o FILE.png writes it elsewhere")


def _rendered(chart: "AnyChart", format_: str) -> bytes:
    """The chart as a file; a page holds its script and asks no other machine."""
    if format_ in {"png", "pdf"}:
        picture = io.BytesIO()
        chart.save(picture, format=format_)
        return picture.getvalue()
    text = io.StringIO()
    chart.save(text, format=format_, **({"inline": True} if format_ == "html" else {}))
    return text.getvalue().encode()
