"""The explorer in a terminal: one answer token by token, and one step with its likely tokens and layers."""

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prunescope.assets.cli import terminal_marks as marks
from prunescope.assets.cli.terminal_marks import written
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts.display_text import label, prose, visible
from prunescope.pipelines.reporting.explorer.document_types import Index, Layers, Number, Steps, TopStep, Trace

# The blues of the figure `tokens`, with a readable text colour.
_LIGHT, _MIDDLE, _DARK = "black on #abcfe6", "black on #6aaed6", "white on #0b4a90"
_KL_STYLES = ("", "", "", _LIGHT, _LIGHT, _MIDDLE, _MIDDLE, _DARK)
_BARS_PER_DECADE = 2
_TOKEN_WIDTH = 14
_GUTTER = 8
# Terminal width from which the tables of both sides fit next to each other.
_SIDE_BY_SIDE = 80
_ROWS = ("step", "dense", "pruned", "KL")


def show_tokens(console: Console, index: Index, n: int, m: int, trace: Trace, *, forced: bool) -> None:
    """Print both models token by token with their KL, on the dense text if `forced`, else on the variant's."""
    prompt = index["prompts"][m]
    console.print(marks.heading(f"{label(index['variants'][n]['id'], 80)} · {label(prompt['name'])}"))
    console.print(marks.verdict(index["variants"][n]), Text(prose(prompt["text"], 400), "dim"))
    steps = _steps(trace, forced=forced)
    console.print(Text(f"both models read the {'dense model' if forced else 'variant'}'s text", "dim"))
    events = _events(trace, forced=forced)
    cells = [_cell(steps, row, events) for row in range(len(steps["step"]))]
    for line in _lines(cells, console.width - _GUTTER):
        for row, name in enumerate(_ROWS):
            text = Text(f"{name:<{_GUTTER}}", "dim", no_wrap=True)
            for cell in line:
                text.append_text(cell[row])
            text.rstrip()
            console.print(text, no_wrap=True, crop=False)
        console.print()
    console.print(Text(_tokens_legend(), "dim"))


def _tokens_legend() -> str:
    return (
        "≠ another token. flip: the first of them; loop: the text has closed a loop; end: the answer is complete. "
        "KL(dense ‖ pruned) in nats; darker is larger. ␣ is a space, ↵ a line break. --step N shows the most likely "
        "tokens of each side at a step, and the layers."
    )


def _steps(trace: Trace, *, forced: bool) -> Steps:
    steps = trace.get("forced" if forced else "own")
    if not steps or not steps["step"]:
        raise InputError(f"{trace['id']}, prompt {trace['prompt_id']}: no step was measured that way")
    return steps


def _events(trace: Trace, *, forced: bool) -> dict[int, str]:
    """Return the events by step of the text that both models read."""
    events: dict[int, str] = {}
    suffix = "_dense" if forced else ""
    for step, word in (
        (trace["first_flip_step"], "flip"),
        (trace[f"collapse_step{suffix}"], "loop"),  # type: ignore[literal-required]
        (trace[f"answer_end_step{suffix}"], "end"),  # type: ignore[literal-required]
    ):
        if step is not None:
            events[step] = f"{events[step]},{word}" if step in events else word
    return events


def _cell(steps: Steps, row: int, events: dict[int, str]) -> list[Text]:
    """Return one step as texts of equal width, one for each of `_ROWS`."""
    step, kl, is_same = steps["step"][row], steps["kl"][row], steps["is_same"][row]
    style = _KL_STYLES[marks.level(kl)] if kl is not None else ""
    mark = f"◆{events[step]}" if step in events else ""
    rows = [
        Text(f"{step} {mark}".rstrip(), "bold" if mark else "dim"),
        Text(visible(steps["token_dense"][row], _TOKEN_WIDTH)),
        Text(visible(steps["token_pruned"][row], _TOKEN_WIDTH), f"{'' if is_same else 'bold '}{style}".strip()),
        Text(f"{marks.bar(kl)} {written(kl)}{'' if is_same else ' ≠'}", style),
    ]
    width = max(cell_len(text.plain) for text in rows) + 2
    for text in rows:
        # Only the words are coloured, so that the gap between two cells shows.
        gap = width - cell_len(text.plain)
        text.append(" " * gap, "none")
        if text.style and gap:
            text.stylize(text.style, 0, len(text) - gap)
            text.style = ""
    return rows


def _lines(cells: Sequence[list[Text]], width: int) -> Iterator[list[list[Text]]]:
    line: list[list[Text]] = []
    used = 0
    for cell in cells:
        cell_width = cell_len(cell[0].plain)
        if line and used + cell_width - 2 > width:
            yield line
            line, used = [], 0
        line.append(cell)
        used += cell_width
    if line:
        yield line


def show_step(console: Console, trace: Trace, step: int, *, forced: bool) -> None:
    """Print one step: the most likely tokens of both sides, and h, z, p and KL behind every sublayer.

    Raises:
        InputError: there is no such step.
    """
    steps = _steps(trace, forced=forced)
    if step not in steps["step"]:
        first, last = steps["step"][0], steps["step"][-1]
        raise InputError(f"--step {step}: this prompt has the steps {first} to {last}")
    row = steps["step"].index(step)
    kl, entropy = steps["kl"][row], steps["entropy_dense"][row]
    words = [visible(steps[side][row], 40) for side in ("token_dense", "token_pruned")]
    console.print(marks.heading(f"Step {step}: {words[0]} {'=' if steps['is_same'][row] else '≠'} {words[1]}"))
    console.print(
        Text(
            f"KL {written(kl)} nats · entropy {written(entropy)} → {written(steps['entropy_pruned'][row])} nats · "
            f"margin {written(steps['margin_dense'][row])} → {written(steps['margin_pruned'][row])} · 1 − cos "
            + ", ".join(f"{name} {written(steps[name][row])}" for name in ("h", "z", "p"))
        )
    )
    tops = trace["top"].get("forced" if forced else "own", [])
    if row < len(tops):
        console.print()
        for table in _tops(tops[row], console.width):
            console.print(table)
            console.print()
    if not trace["layers"]:
        console.print(Text("The layers were not measured, only the output.", "dim"))
    for scope, layers in sorted(trace["layers"].items(), key=lambda item: item[0] != "propagated"):
        if step in layers["steps"]:
            console.print(_layers(console, scope, layers, layers["steps"].index(step)))
    if step == 0 and (options := trace["options"]):
        table = marks.table(Text("Answer options", "bold"))
        for heading in ("option", "dense", "pruned"):
            table.add_column(heading, justify="left" if heading == "option" else "right")
        for name, dense, pruned in zip(options["labels"], options["p_dense"], options["p_pruned"], strict=True):
            gold = " (right)" if name == options["gold"] else ""
            table.add_row(Text(label(name) + gold), _share(dense, 8), _share(pruned, 8))
        console.print(table)


def _tops(top: TopStep, width: int) -> Iterator[Table]:
    """Yield one table with both sides, or two on a narrow terminal; columns are token, dense and pruned probability."""
    sides = (("dense's", top["dense"]), ("pruned's", top["pruned"]))
    title = "Most likely tokens"
    for columns in (sides,) if width >= _SIDE_BY_SIDE else ((side,) for side in sides):
        table = marks.table(Text(title, "bold") if title else None)
        for name, _ in columns:
            table.add_column(name)
            table.add_column("dense", justify="right", no_wrap=True)
            table.add_column("pruned", justify="right", no_wrap=True)
        for rank in range(max(len(side) for _, side in columns)):
            cells: list[RenderableType] = []
            for _, side in columns:
                token, *probabilities = side[rank] if rank < len(side) else ("", None, None)
                cells += [Text(visible(str(token), _TOKEN_WIDTH)), *(_share(value, 4) for value in probabilities[:2])]
            table.add_row(*cells)
        yield table
        title = ""


def _share(probability: Number, bars: int) -> Text:
    """Return a probability after its bar, which has `bars` blocks at 1."""
    if probability is None:
        return Text(marks.NOTHING)
    return Text(f"{'█' * round(bars * probability)} {100 * probability:.1f} %")


def _layers(console: Console, scope: str, layers: Layers, column: int) -> Group:
    """Return the curves of one step as lines of bars, one bar per sublayer or the maximum of several."""
    curves = {name: [line[column] for line in layers[name]] for name in ("h", "z", "p", "kl")}
    width = min(len(layers["places"]), console.width - 32)
    shifts = [value for name in ("h", "z", "p") for value in curves[name] if value]
    high = math.log10(max(shifts, default=1.0))

    def relative(value: float) -> int:
        # The scale starts at the maximum: the smallest shifts are rounding and would stretch it.
        return max(0, math.ceil(8 + _BARS_PER_DECADE * (math.log10(value) - high)) - 1) if value > 0 else 0

    lines = [Text(f"Behind each sublayer, scope {label(scope)}, on the dense model's tokens", "bold")]
    for name, values in curves.items():
        known = [value for value in values if value is not None]
        bars = marks.spark(values, width, marks.level if name == "kl" else relative)
        heading = "KL, nats" if name == "kl" else f"1−cos {name}"
        ends = f"{written(known[0])} → {written(known[-1])}" if known else marks.NOTHING
        lines.append(Text(f"{heading:<10}{bars} {ends}"))
    for heading, flags in (
        ("changed", layers["is_changed"]),
        ("≠ top", [line[column] is False for line in layers["is_top1_same"]]),
    ):
        if any(flags) and not (heading == "changed" and all(flags)):
            dots = "".join("•" if any(flags[a:b]) else " " for a, b in marks.bins(len(flags), width))
            lines.append(Text(f"{heading:<10}{dots}".rstrip()))
    first, last = layers["places"][0], layers["places"][-1]
    lines.append(
        Text(f"from {label(first)} to {label(last)}; h, z and p on one logarithmic scale, two bars per decade", "dim")
    )
    return Group(*lines, "")
