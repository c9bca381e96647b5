"""The report in a terminal: the overview, or one text token by token, from the documents of the page.

Colour only repeats a number or sign next to it.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prunescope.assets.publishing.notebook import KL_BOUNDS
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.reporting.advice import MARKS
from prunescope.pipelines.reporting.charts.display_text import label, prose, visible
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
_TOKEN_WIDTH = 14
_GUTTER = 8
_ROWS = ("step", "dense", "pruned", "KL")
_OVERVIEW_LEGEND = (
    "KL(dense ‖ pruned) in nats along the generation, from left to right, each bar the maximum of several steps: both "
    "models reading the dense text (forced) or the variant's (own). Lower bound of a bar: "
    + "  ".join(f"{bar} {bound:g}" for bar, bound in zip(_BARS[1:], KL_BOUNDS, strict=True))
    + ". median: of KL own. flip: step of the first token that differs, median over prompts. loops: prompts that fall "
    "into a loop. One text token by token: --variant NAME --prompt ID."
)
_TOKENS_LEGEND = (
    "≠ another token. flip: the first of them; loop: the text has closed a loop; end: the answer is complete. "
    "KL(dense ‖ pruned) in nats; darker is larger. ␣ is a space, ↵ a line break."
)


def show_report(root: "Place", study: str | None, variant: str | None, prompt: str | None, *, forced: bool) -> None:
    """Print a study's overview, or one answer of a variant token by token.

    Args:
        root: the warehouse.
        study: its name or file; None for the only one with results.
        variant: `model@recipe`, or a recipe.
        prompt: the id of a prompt.
        forced: whether the pruned model reads the dense model's tokens.
    """
    from prunescope.assets.publishing.live_study import studies
    from prunescope.pipelines.reporting.explorer.study_documents import document_name
    from prunescope.warehouse.catalogue.queries import find_variant

    if variant is None and (prompt is not None or forced):
        raise InputError(f"{'--forced' if prompt is None else '--prompt'}: add --variant")
    known = studies(root, study)
    if len(known) > 1:
        raise InputError(f"name the study, one of {', '.join(known)}")
    [live] = known.values()
    index = live.build("index")
    console = Console(highlight=False, emoji=False, markup=False)
    if variant is None:
        show_overview(console, index)
        return
    pairs = {(entry["model"], entry["recipe"]): entry for entry in index["variants"]}
    entry = pairs[find_variant(variant, pairs)]
    asked = find_prompt(index, entry, prompt)
    trace = live.build(document_name("trace", entry["id"], asked["prompt_id"]))
    show_tokens(console, entry, asked, trace, forced=forced)


def find_prompt(index: "Document", entry: "Document", prompt: str | None) -> "Document":
    """Return a prompt whose steps were measured for the variant; else name those that there are."""
    for asked in index["prompts"] if prompt in entry["traces"] else ():
        if (asked["model"], asked["prompt_id"]) == (entry["model"], prompt):
            return asked
    names = [label(name, 80) for name in entry["traces"]]
    some = f"there are {', '.join(names[:20])}{', …' * (len(names) > 20)}"
    known = some if names else "it has no steps of any prompt"
    if prompt is None:
        raise InputError(f"--variant: add --prompt; {known}")
    hint = did_you_mean(prompt, names).strip() or known
    raise InputError(f"--prompt {prompt}: no steps of it were measured for {label(entry['id'], 80)}; {hint}")


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


def show_tokens(console: Console, entry: "Document", prompt: "Document", trace: "Document", *, forced: bool) -> None:
    """Print both models token by token with their KL, on the dense text if `forced`, else on the variant's."""
    steps = trace.get("forced" if forced else "own")
    if not steps or not steps["step"]:
        raise InputError(f"{label(entry['id'], 80)}, prompt {prompt['name']}: no step was measured that way")
    console.print(Text(f"\n{label(entry['id'], 80)} · {label(prompt['name'])}", _HEADING))
    console.print(_verdict(entry), Text(prose(prompt["prompt_text"], 400), "dim"))
    console.print(Text(f"both models read the {'dense model' if forced else 'variant'}'s text", "dim"))
    events = _events(trace, "_dense" if forced else "")
    cells = [_cell(steps, row, events) for row in range(len(steps["step"]))]
    for line in _lines(cells, console.width - _GUTTER):
        for row, name in enumerate(_ROWS):
            text = Text(f"{name:<{_GUTTER}}", "dim", no_wrap=True)
            for cell in line:
                text.append_text(cell[row])
            text.rstrip()
            console.print(text, no_wrap=True, crop=False)
        console.print()
    console.print(Text(_TOKENS_LEGEND, "dim"))


def _events(trace: "Document", suffix: str) -> dict[int, str]:
    """Return the events by step of the text that both models read."""
    places = (trace["first_flip_step"], trace[f"collapse_step{suffix}"], trace[f"answer_end_step{suffix}"])
    events: dict[int, str] = {}
    for step, word in zip(places, ("flip", "loop", "end"), strict=True):
        if step is not None:
            events[step] = f"{events[step]},{word}" if step in events else word
    return events


def _cell(steps: "Document", row: int, events: dict[int, str]) -> list[Text]:
    """Return one step as texts of equal width, one for each of `_ROWS`."""
    step, kl, sign = steps["step"][row], steps["kl_dense_pruned_nats"][row], "" if steps["is_same_token"][row] else " ≠"
    style = _KL_STYLES[bisect_right(KL_BOUNDS, kl)] if kl is not None else ""
    mark = f" ◆{events[step]}" if step in events else ""
    texts = (
        (f"{step}{mark}", "bold" if mark else "dim"),
        (visible(steps["token_text_dense"][row], _TOKEN_WIDTH), ""),
        (visible(steps["token_text_pruned"][row], _TOKEN_WIDTH), f"bold {style}" if sign else style),
        (f"{spark([kl], 1)} {shown_cell(kl, 2)}{sign}", style),
    )
    width = max(cell_len(text) for text, _ in texts) + 2
    # Only the words are coloured, so that the gap between two cells shows.
    return [Text.assemble((text, style), " " * (width - cell_len(text))) for text, style in texts]


def _lines(cells: Sequence[list[Text]], width: int) -> Iterator[list[list[Text]]]:
    line: list[list[Text]] = []
    for cell in cells:
        if line and sum(cell_len(each[0].plain) for each in [*line, cell]) - 2 > width:
            yield line
            line = []
        line.append(cell)
    if line:
        yield line


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
