"""Elements of the explorer in a terminal: bars of KL, verdicts, numbers, headings and tables."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from prunescope.assets.publishing.notebook import KL_BOUNDS
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.explorer.document_types import Number, VariantEntry

BARS = "▁▂▃▄▅▆▇█"
NOTHING = "–"
_SIGNS = {"safe": "✓", "writes other text": "≈", "chooses only": "~", "not safe": "✗", "too little evidence": "?"}
_STYLES = {"safe": "green", "writes other text": "yellow", "chooses only": "yellow", "not safe": "red"}


def spark(values: Sequence[Number], width: int, to_level: Callable[[float], int] | None = None) -> str:
    """Return a line of bars, one per bin with the bin's maximum; `·` for a bin without a value."""
    return "".join(
        BARS[(to_level or level)(max(known))] if (known := [v for v in values[a:b] if v is not None]) else "·"
        for a, b in bins(len(values), width)
    )


def bar(kl: Number) -> str:
    """Return the bar of one KL in nats."""
    return "·" if kl is None else BARS[level(kl)]


def bins(count: int, width: int) -> Iterator[tuple[int, int]]:
    """Split `count` positions into at most `width` bins of near equal length; yield start and end."""
    total = max(1, min(count, width))
    return pairwise(round(k * count / total) for k in range(total + 1)) if count else iter(())


def level(kl: float) -> int:
    """Return the index in `BARS` of a KL in nats."""
    return sum(kl >= bound for bound in KL_BOUNDS)


def verdict(entry: VariantEntry) -> Text:
    """Return a verdict as sign, words and colour."""
    name = entry["verdict"]
    if name is None:
        return Text("dense model" if entry["is_dense"] else NOTHING, "dim")
    return Text(f"{_SIGNS.get(name, '·')} {label(name)}", _STYLES.get(name, ""))


def heading(text: str) -> Text:
    """Return the line above a page."""
    return Text(f"\n{text}", "bold underline")


def table(title: Text | None = None) -> Table:
    """Return an empty table without a frame."""
    return Table(
        box=SIMPLE_HEAD,
        title=title,
        title_justify="left",
        header_style="bold",
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def written(value: Number) -> str:
    """Format a number with two significant digits; None as a dash."""
    return NOTHING if value is None else f"{value:.2g}" if abs(value) < 100 else f"{value:,.0f}"


def number(value: Number) -> Text:
    """Return `written` as the cell of a table."""
    return Text(written(value))
