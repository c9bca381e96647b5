"""Marks of the explorer in a terminal: bars of KL, verdicts, numbers, headings and tables. No document is read here."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.explorer.document_types import Number, VariantEntry

BARS = "▁▂▃▄▅▆▇█"
# Where the next bar begins, in nats; the same for every variant, so that two lines can be compared.
KL_BOUNDS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
NOTHING = "–"
_SIGNS = {"safe": "✓", "non-generative only": "~", "broken": "✗", "not judged": "?"}
_STYLES = {"safe": "green", "non-generative only": "yellow", "broken": "red"}


def spark(values: Sequence[Number], width: int, place: Callable[[float], int] | None = None) -> str:
    """The values as bars, of each stretch the largest; `·` where nothing is known of one."""
    return "".join(
        BARS[(place or level)(max(known))] if (known := [v for v in values[a:b] if v is not None]) else "·"
        for a, b in stretches(len(values), width)
    )


def bar(kl: Number) -> str:
    """The bar of one KL in nats."""
    return "·" if kl is None else BARS[level(kl)]


def stretches(count: int, width: int) -> Iterator[tuple[int, int]]:
    """So many stretches of near equal length over positions, or one a position where these are fewer."""
    wanted = max(1, min(count, width))
    return pairwise(round(k * count / wanted) for k in range(wanted + 1)) if count else iter(())


def level(kl: float) -> int:
    """Which bar stands for a KL in nats, from 0."""
    return sum(kl >= bound for bound in KL_BOUNDS)


def verdict(entry: VariantEntry) -> Text:
    """A verdict as sign, words and colour."""
    said = entry["verdict"]
    if said is None:
        return Text("dense model" if entry["is_dense"] else NOTHING, "dim")
    doubt = "" if entry["is_certain"] in {None, True} else " (?)"
    return Text(f"{_SIGNS.get(said, '·')} {label(said)}{doubt}", _STYLES.get(said, ""))


def heading(text: str) -> Text:
    """The line above a page."""
    return Text(f"\n{text}", "bold underline")


def table(title: Text | None = None) -> Table:
    """An empty table without a frame."""
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
    """Two significant digits, or a dash."""
    return NOTHING if value is None else f"{value:.2g}" if abs(value) < 100 else f"{value:,.0f}"


def number(value: Number) -> Text:
    """The same as a cell."""
    return Text(written(value))
