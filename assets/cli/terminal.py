"""The report in a terminal: the overview from the documents of the page, or one text, coloured token by token.

Colour only repeats a number, word or sign next to it, or the bar after a token.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prunescope.assets.publishing.notebook import KL_BOUNDS
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.advice import MARKS
from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.warehouse.core.formats import NULL, shown_cell

if TYPE_CHECKING:
    from prunescope.pipelines.reporting.explorer.query_cache import Document
    from prunescope.warehouse.storage.location import Place

_BARS = "▁▂▃▄▅▆▇█"
_HEADING = "bold underline"
_STYLES = {"safe": "green", "writes other text": "yellow", "chooses only": "yellow", "not safe": "red"}
# The blues of the figure `tokens`, with a readable text colour.
_LIGHT, _MIDDLE, _DARK = "black on #abcfe6", "black on #6aaed6", "white on #0b4a90"
_KL_STYLES = ("", "", "", _LIGHT, _LIGHT, _MIDDLE, _MIDDLE, _DARK)
# Width of all columns but names, verdicts and bars, with gaps.
_NUMBERS_WIDTH = 27
_MIN_SPARK, _MAX_SPARK = 9, 40
_TOKEN_WIDTH = 30
_BOUNDS = "Lower bound of a bar: " + "  ".join(
    f"{bar} {bound:g}" for bar, bound in zip(_BARS[1:], KL_BOUNDS, strict=True)
)
_OVERVIEW_LEGEND = (
    "KL(dense ‖ pruned) in nats along the generation, from left to right, each bar the maximum of several steps: both "
    f"models reading the dense text (forced) or the variant's (own). {_BOUNDS}. median: of KL own. flip: step of the "
    "first token that differs, median over prompts. loops: prompts that fall into a loop. One text token by token: "
    "--variant NAME --prompt ID."
)
_TEXT_LEGEND = (
    "The bar after a token, and its colour: KL(dense ‖ pruned) in nats; darker is larger. ≠: the most probable tokens "
    f"differ. ↵ is a line break. {_BOUNDS}."
)


def show_report(root: "Place", study: str | None, variant: str | None, prompt: str | None, *, forced: bool) -> None:
    """Print the overview of a study (None: the only one with results), or a variant's text token by token.

    The text answers `prompt`. With `forced` it is the dense model's, which both models read, not the variant's.
    """
    from prunescope.assets.publishing.live_study import studies
    from prunescope.warehouse.catalogue.queries import TOKENS, find_variant, query_rows, stored_variants
    from prunescope.warehouse.catalogue.question_query import RowFilter, require

    console = Console(highlight=False, emoji=False, markup=False)
    if variant is not None and prompt is not None:
        pair = find_variant(variant, stored_variants(root))
        require(root, pair[:1], RowFilter(prompts=(prompt,)))
        trajectory = "teacher_forced" if forced else "own_text"
        rows = query_rows(root, TOKENS, variant="@".join(pair), prompt=prompt, trajectory=trajectory).to_pylist()
        if not rows:
            raise InputError(f"{'@'.join(pair)}, prompt {prompt}: no step was measured that way")
        show_tokens(console, "@".join(pair), rows, forced=forced)
        return
    if variant is not None or prompt is not None or forced:
        raise InputError("a text needs --variant and --prompt, such as --variant wanda-50 --prompt open")
    known = studies(root, study)
    if len(known) > 1:
        raise InputError(f"name the study, one of {', '.join(known)}")
    [live] = known.values()
    show_overview(console, live.build("index"))


def show_tokens(console: Console, variant: str, rows: Sequence[dict[str, Any]], *, forced: bool) -> None:
    """Print the tokens of rows of `queries.TOKENS`: the dense model's if `forced`, else the variant's."""
    console.print(Text(f"\n{label(variant, 80)}", _HEADING))
    console.print(Text(prose(rows[0]["prompt_text"], 400), "dim"))
    console.print(Text(f"both models read the {'dense model' if forced else 'variant'}'s text\n", "dim"))
    text = Text()
    for row in rows:
        kl = row["kl_dense_pruned_nats"]
        token = label(row[f"token_text_{'dense' if forced else 'pruned'}"], _TOKEN_WIDTH)
        sign = "" if row["is_top1_same"] else "≠"
        text.append(f"{token}{spark([kl], 1)}{sign}", _KL_STYLES[bisect_right(KL_BOUNDS, kl)])
    console.print(text)
    console.print(Text(f"\n{_TEXT_LEGEND}", "dim"))


def show_overview(console: Console, index: "Document") -> None:
    """Print the answers, and a table of the variants of each model."""
    console.print(Text(f"\nStudy {label(index['study'])}", _HEADING))
    for answer in index["answers"]:
        prefix = f"{label(answer['model'])}: " if len(index["models"]) > 1 else ""
        console.print(Text(prefix + prose(answer["question"]), "bold"))
        text = f"{answer['short']} {answer['text']}".strip()
        console.print(Padding(Text(prose(text)), (0, 0, 1, 2), expand=False))
    for model in index["models"]:
        entries = [entry for entry in index["variants"] if entry["model"] == model]
        names = max(cell_len(label(entry["recipe"])) + cell_len(_verdict(entry).plain) for entry in entries)
        width = max(_MIN_SPARK, min(_MAX_SPARK, (console.width - names - _NUMBERS_WIDTH) // 2))
        lines = {"box": SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
        table = Table(title=Text(label(model), "bold"), title_justify="left", header_style="bold", **lines)
        for heading in ("recipe", "verdict", "KL forced", "KL own"):
            table.add_column(heading, overflow="fold", no_wrap=heading.startswith("KL"))
        for heading in ("median", "flip", "loops"):
            table.add_column(heading, justify="right", overflow="fold")
        for entry in entries:
            numbers = entry["numbers"]
            part, whole = numbers.get("prompts_collapsed"), numbers.get("prompts")
            table.add_row(
                Text(label(entry["recipe"])),
                _verdict(entry),
                spark(entry["spark"]["forced"], width),
                spark(entry["spark"]["own"], width),
                shown_cell(numbers.get("kl_own_text_median_nats"), 2),
                shown_cell(numbers.get("first_flip_step_median"), 2),
                NULL if part is None or not whole else f"{part:g}/{whole:g}",
            )
        console.print(table)
        console.print()
    for text in (_OVERVIEW_LEGEND, *index["notes"]):
        console.print(Text(prose(text), "dim"))


def spark(values: Sequence[float | None], width: int) -> str:
    """Return at most `width` bars, one per bin of KL in nats with the bin's maximum; `·` for a bin without a value."""
    count = max(1, min(len(values), width))
    bins = pairwise(round(k * len(values) / count) for k in range(count + 1 if values else 0))
    known = ([value for value in values[start:end] if value is not None] for start, end in bins)
    return "".join(_BARS[bisect_right(KL_BOUNDS, max(each))] if each else "·" for each in known)


def _verdict(entry: "Document") -> Text:
    """Return a verdict as sign, words and colour."""
    name = entry["verdict"]
    if name is None:
        return Text("dense model" if entry["is_dense"] else NULL, "dim")
    return Text(f"{MARKS.get(name, '·')} {label(name)}", _STYLES.get(name, ""))
