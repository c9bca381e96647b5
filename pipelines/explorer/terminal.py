"""The explorer in a terminal: the same documents as the page, as text of any width.

Reads documents and prints; no SQL, no charts. Colour repeats what a number, sign or bar beside it says.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.charts.text import label, prose, visible
from pipelines.errors import InputError
from pipelines.explorer.shapes import (
    Index,
    Layers,
    Number,
    PromptSummary,
    Steps,
    TopStep,
    Trace,
    VariantDocument,
    VariantEntry,
)

BARS = "▁▂▃▄▅▆▇█"
# Where the next bar begins, in nats; the same for every variant, so that two lines can be compared.
KL_BOUNDS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
# From no colour to dark blue, as in the figure of the tokens; each is readable by itself.
_LIGHT, _MIDDLE, _DARK = "black on #abcfe6", "black on #6aaed6", "white on #0b4a90"
_KL_STYLES = ("", "", "", _LIGHT, _LIGHT, _MIDDLE, _MIDDLE, _DARK)
_SIGNS = {"safe": "✓", "non-generative only": "~", "broken": "✗", "not judged": "?"}
_STYLES = {"safe": "green", "non-generative only": "yellow", "broken": "red"}
_NOTHING = "–"
_OVERVIEW: dict[str, Literal["left", "right"]] = {
    "recipe": "left",
    "verdict": "left",
    "KL forced": "left",
    "KL free": "left",
    "median": "right",
    "flip": "right",
    "loops": "right",
}
# What the columns beside names and bars take, gaps included.
_NUMBERS = 27
_SHORTEST, _LONGEST = 9, 40
_BARS_A_DECADE = 2
_TOKEN = 14
_CARRIERS = 8
_CARRIERS_LEGEND = (
    "KL that this sublayer makes on its own, and its share of the sum over all that the recipe changed. parts here: "
    "prompts whose likeliest token differs for good from behind it, at the first other token."
)


def find_variant(index: Index, name: str) -> int:
    """The position of a variant, by `model@recipe` or by its recipe where that is clear.

    Raises:
        InputError: there is none, or several models have the recipe.
    """
    found = [n for n, each in enumerate(index["variants"]) if name in {each["id"], each["recipe"]}]
    if len(found) == 1:
        return found[0]
    names = [each["id"] for each in index["variants"]]
    if found:
        raise InputError(f"--variant {name}: several models have it; choose {_listed([names[n] for n in found])}")
    raise InputError(f"--variant {name}: there is no such variant; {_known(name, names)}")


def find_prompt(index: Index, variant: int, name: str) -> int:
    """The position of a prompt of the variant's model.

    Raises:
        InputError: there is none, or its steps were not kept.
    """
    entry = index["variants"][variant]
    own = {p["prompt_id"]: m for m, p in enumerate(index["prompts"]) if p["model"] == entry["model"]}
    if name not in own:
        raise InputError(f"--prompt {name}: there is no such prompt; {_known(name, list(own))}")
    if own[name] not in entry["traces"]:
        raise InputError(f"--prompt {name}: its steps were not measured of {entry['id']}")
    return own[name]


def _known(name: str, names: Sequence[str]) -> str:
    like = get_close_matches(name, names, n=1)
    return f"did you mean {label(like[0], 80)}?" if like else f"there are {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(label(name, 80) for name in names[:20]) + (", …" if len(names) > 20 else "")


def show_overview(console: Console, index: Index) -> None:
    """Prints the answers, and a table of the variants of each model."""
    console.print(_heading(f"Study {label(index['study'])}"))
    for answer in index["answers"]:
        of = f"{label(answer['model'])}: " if len(index["models"]) > 1 else ""
        console.print(Text(of + prose(answer["question"]), "bold"))
        told = f"{answer['short']} {answer['text']}".strip()
        console.print(Padding(Text(prose(told)), (0, 0, 1, 2), expand=False))
    for model in index["models"]:
        entries = [entry for entry in index["variants"] if entry["model"] == model]
        width = _spark_width(console.width, entries)
        table = _table(Text(label(model), "bold"))
        for heading, justify in _OVERVIEW.items():
            table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading.startswith("KL"))
        for entry in entries:
            numbers = entry["numbers"]
            table.add_row(
                Text(label(entry["recipe"])),
                _verdict(entry),
                Text(spark(entry["spark"]["forced"], width)),
                Text(spark(entry["spark"]["free"], width)),
                _number(numbers.get("kl_free_running_median_nats")),
                _number(numbers.get("first_flip_step_median")),
                _of(numbers.get("prompts_collapsed"), numbers.get("prompts")),
            )
        console.print(table)
        console.print()
    console.print(Text(_legend(), "dim"))
    for note in index["notes"]:
        console.print(Text(prose(note), "dim"))
    console.print(Text("One variant: --variant NAME; its tokens: --variant NAME --prompt ID, then --step N.", "dim"))


def _spark_width(width: int, entries: Sequence[VariantEntry]) -> int:
    """Bars of each of the two lines that leave names and verdicts whole, where the terminal is wide enough."""
    names = max(cell_len(label(entry["recipe"])) + cell_len(_verdict(entry).plain) for entry in entries)
    return max(_SHORTEST, min(_LONGEST, (width - names - _NUMBERS) // 2))


def _legend() -> str:
    bars = "  ".join(f"{bar} {bound:g}" for bar, bound in zip(BARS[1:], KL_BOUNDS, strict=True))
    return (
        "KL(dense ‖ pruned) in nats along the generation, from left to right, the largest of each stretch: forced on "
        f"the dense model's tokens, free on its own. A bar begins at: {bars}. median: of KL free. flip: the first "
        "token that differs, median over prompts. loops: prompts that fall into a loop. (?): the intervals of the "
        "losses allow another verdict."
    )


def show_variant(console: Console, index: Index, n: int, document: VariantDocument) -> None:
    """Prints one variant: verdict, each prompt, and the sublayers that carry the damage."""
    entry = index["variants"][n]
    console.print(_heading(label(entry["id"], 80)))
    console.print(
        Text(": ").join([_verdict(entry), Text(prose(entry["verdict_reason"] or "what the others are compared with"))])
    )
    table = _table()
    for heading in ("prompt", "flip", "loop", "answer", "KL forced", "KL free", "parts at"):
        table.add_column(heading, justify="left" if heading in {"prompt", "answer", "parts at"} else "right")
    for prompt in document["prompts"]:
        table.add_row(
            Text(label(index["prompts"][prompt["prompt"]]["name"])),
            _step(prompt["first_flip_step"]),
            _step(prompt["collapse_step"]),
            _answered(prompt),
            _number(prompt["kl_forced_mean"]),
            _number(prompt["kl_free_mean"]),
            Text(label(prompt["parts_for_good_at"] or prompt["parts_at"] or _NOTHING)),
        )
    console.print(table)
    if carriers := document["carriers"][:_CARRIERS]:
        table = _table(Text("Which sublayers carry it", "bold"))
        for heading in ("sublayer", "scope", "KL, nats", "share", "", "parts here"):
            table.add_column(heading, justify="right" if heading in {"KL, nats", "share", "parts here"} else "left")
        largest = max(each["share"] or 0.0 for each in carriers) or 1.0
        for each in carriers:
            share = each["share"] or 0.0
            told = _NOTHING if each["share"] is None else f"{100 * share:.0f} %"
            bar = Text("█" * round(20 * share / largest))
            table.add_row(
                Text(label(each["place"])),
                Text(label(each["scope"])),
                _number(each["kl"]),
                Text(told),
                bar,
                Text(str(each["parted"])),
            )
        console.print()
        console.print(table)
        console.print(Text(_CARRIERS_LEGEND, "dim"))
    shown = [index["prompts"][m]["prompt_id"] for m in entry["traces"]]
    if shown:
        console.print(Text(f"Token by token: --prompt {_listed(shown)}", "dim"))


def _answered(prompt: PromptSummary) -> Text:
    if prompt["is_correct"] is None:
        return Text(_NOTHING)
    return Text("✓ right", "green") if prompt["is_correct"] else Text("✗ wrong", "red")


def show_tokens(console: Console, index: Index, n: int, m: int, trace: Trace, *, forced: bool) -> None:
    """Prints both texts token by token with the KL of each step; `forced`: the pruned model reads the dense tokens."""
    prompt = index["prompts"][m]
    console.print(_heading(f"{label(trace['id'], 80)} · {label(prompt['name'])}"))
    console.print(_verdict(index["variants"][n]), Text(prose(prompt["text"], 400), "dim"))
    steps = _steps(trace, forced=forced)
    console.print(Text("reading the dense model's tokens" if forced else "each reading its own tokens", "dim"))
    marks = _marks(trace, forced=forced)
    cells = [_cell(steps, row, marks) for row in range(len(steps["step"]))]
    for line in _lines(cells, console.width - _GUTTER):
        for row, name in enumerate(_ROWS):
            text = Text(f"{name:<{_GUTTER}}", "dim", no_wrap=True)
            for cell in line:
                text.append_text(cell[row])
            text.rstrip()
            console.print(text, no_wrap=True, crop=False)
        console.print()
    console.print(Text(_tokens_legend(), "dim"))


_GUTTER = 8
_ROWS = ("step", "dense", "pruned", "KL")


def _tokens_legend() -> str:
    return (
        "≠ another token. flip: the first of them; loop: where the text has closed a loop; end: where the answer "
        "ends. KL(dense ‖ pruned) in nats; the darker, the larger. ␣ is a space, ↵ a line break. "
        "--step N shows what else each side held likely there, and the layers."
    )


def _steps(trace: Trace, *, forced: bool) -> Steps:
    steps = trace.get("forced") if forced else trace.get("free")
    if not steps or not steps["step"]:
        raise InputError(f"{trace['id']}, prompt {trace['prompt_id']}: no step was measured that way")
    return steps


def _marks(trace: Trace, *, forced: bool) -> dict[int, str]:
    """What happens at a step to the text that is read: the pruned model's own, or the dense one."""
    marks: dict[int, str] = {}
    of_text = "_dense" if forced else ""
    for step, word in (
        (trace["first_flip_step"], "flip"),
        (trace[f"collapse_step{of_text}"], "loop"),  # type: ignore[literal-required]
        (trace[f"answer_end_step{of_text}"], "end"),  # type: ignore[literal-required]
    ):
        if step is not None:
            marks[step] = f"{marks[step]},{word}" if step in marks else word
    return marks


def _cell(steps: Steps, row: int, marks: dict[int, str]) -> list[Text]:
    """One step as texts of one width, one for each of `_ROWS`."""
    step, kl, is_same = steps["step"][row], steps["kl"][row], steps["is_same"][row]
    style = _KL_STYLES[_level(kl)] if kl is not None else ""
    told = f"{bar(kl)} {_written(kl)}{'' if is_same else ' ≠'}"
    mark = f"◆{marks[step]}" if step in marks else ""
    rows = [
        Text(f"{step} {mark}".rstrip(), "bold" if mark else "dim"),
        Text(visible(steps["token_dense"][row], _TOKEN)),
        Text(visible(steps["token_pruned"][row], _TOKEN), f"{'' if is_same else 'bold '}{style}".strip()),
        Text(told, style),
    ]
    width = max(cell_len(text.plain) for text in rows) + 2
    for text in rows:
        # Only the words have the colour: a gap stays between two cells.
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
        wide = cell_len(cell[0].plain)
        if line and used + wide - 2 > width:
            yield line
            line, used = [], 0
        line.append(cell)
        used += wide
    if line:
        yield line


def show_step(console: Console, trace: Trace, step: int, *, forced: bool) -> None:
    """Prints one step: the most likely tokens of both sides, and h, z, p and KL behind every sublayer.

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
    console.print(_heading(f"Step {step}: {words[0]} {'=' if steps['is_same'][row] else '≠'} {words[1]}"))
    console.print(
        Text(
            f"KL {_written(kl)} nats · entropy {_written(entropy)} → {_written(steps['entropy_pruned'][row])} nats · "
            f"margin {_written(steps['margin_dense'][row])} → {_written(steps['margin_pruned'][row])} · 1 − cos "
            + ", ".join(f"{name} {_written(steps[name][row])}" for name in ("h", "z", "p"))
        )
    )
    tops = trace["top"].get("forced" if forced else "free", [])
    if row < len(tops):
        console.print()
        console.print(_top(tops[row]))
        console.print()
    for scope, layers in sorted(trace["layers"].items(), key=lambda each: each[0] != "propagated"):
        if step in layers["steps"]:
            console.print(_layers(console, scope, layers, layers["steps"].index(step)))
    if step == 0 and (options := trace["options"]):
        table = _table(Text("Answer options", "bold"))
        for heading in ("option", "dense", "pruned"):
            table.add_column(heading, justify="left" if heading == "option" else "right")
        for name, dense, pruned in zip(options["labels"], options["p_dense"], options["p_pruned"], strict=True):
            gold = " (right)" if name == options["gold"] else ""
            table.add_row(Text(label(name) + gold), _share(dense), _share(pruned))
        console.print(table)


def _top(top: TopStep) -> Table:
    """Both lists side by side; entries are token, dense and pruned probability."""
    table = _table(Text("Most likely tokens", "bold"))
    for heading in ("dense's", "dense", "pruned", "pruned's", "dense", "pruned"):
        table.add_column(heading, justify="left" if heading.endswith("'s") else "right")
    for rank in range(max(len(top["dense"]), len(top["pruned"]))):
        cells: list[RenderableType] = []
        for side in (top["dense"], top["pruned"]):
            token, *chances = side[rank] if rank < len(side) else ("", None, None)
            cells += [Text(visible(str(token), _TOKEN)), *(_share(chance) for chance in chances[:2])]
        table.add_row(*cells)
    return table


def _share(chance: Number) -> Text:
    if chance is None:
        return Text(_NOTHING)
    return Text(f"{'█' * round(8 * chance)} {100 * chance:.1f} %")


def _layers(console: Console, scope: str, layers: Layers, column: int) -> Group:
    """The curves of one step as lines of bars, one bar a sublayer or the largest of several."""
    curves = {name: [line[column] for line in layers[name]] for name in ("h", "z", "p", "kl")}
    width = min(len(layers["places"]), console.width - 32)
    shifts = [value for name in ("h", "z", "p") for value in curves[name] if value]
    high = math.log10(max(shifts, default=1.0))

    def relative(value: float) -> int:
        # The smallest shifts are rounding, and would press all others into the highest bar.
        return max(0, math.ceil(8 + _BARS_A_DECADE * (math.log10(value) - high)) - 1) if value > 0 else 0

    lines = [Text(f"Behind each sublayer, scope {label(scope)}, on the dense model's tokens", "bold")]
    for name, values in curves.items():
        known = [value for value in values if value is not None]
        drawn = spark(values, width, _level if name == "kl" else relative)
        heading = "KL, nats" if name == "kl" else f"1−cos {name}"
        told = f"{_written(known[0])} → {_written(known[-1])}" if known else _NOTHING
        lines.append(Text(f"{heading:<10}{drawn} {told}"))
    for heading, flags in (
        ("changed", layers["is_changed"]),
        ("≠ top", [line[column] is False for line in layers["is_top1_same"]]),
    ):
        if any(flags) and not (heading == "changed" and all(flags)):
            marks = "".join("•" if any(flags[a:b]) else " " for a, b in _stretches(len(flags), width))
            lines.append(Text(f"{heading:<10}{marks}".rstrip()))
    first, last = layers["places"][0], layers["places"][-1]
    lines.append(
        Text(f"from {label(first)} to {label(last)}; h, z and p on one logarithmic scale, two bars a decade", "dim")
    )
    return Group(*lines, "")


def spark(values: Sequence[Number], width: int, level: Callable[[float], int] | None = None) -> str:
    """The values as bars, of each stretch the largest; `·` where nothing is known of one."""
    return "".join(
        BARS[(level or _level)(max(known))] if (known := [v for v in values[a:b] if v is not None]) else "·"
        for a, b in _stretches(len(values), width)
    )


def bar(kl: Number) -> str:
    """The bar of one KL in nats."""
    return "·" if kl is None else BARS[_level(kl)]


def _stretches(count: int, width: int) -> Iterator[tuple[int, int]]:
    """So many stretches of near equal length over positions, or one a position where these are fewer."""
    wanted = max(1, min(count, width))
    return pairwise(round(k * count / wanted) for k in range(wanted + 1)) if count else iter(())


def _level(kl: float) -> int:
    return sum(kl >= bound for bound in KL_BOUNDS)


def _verdict(entry: VariantEntry) -> Text:
    verdict = entry["verdict"]
    if verdict is None:
        return Text("dense model" if entry["is_dense"] else _NOTHING, "dim")
    doubt = "" if entry["is_certain"] in {None, True} else " (?)"
    return Text(f"{_SIGNS.get(verdict, '·')} {label(verdict)}{doubt}", _STYLES.get(verdict, ""))


def _heading(text: str) -> Text:
    return Text(f"\n{text}", "bold underline")


def _table(title: Text | None = None) -> Table:
    return Table(
        box=SIMPLE_HEAD,
        title=title,
        title_justify="left",
        header_style="bold",
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _written(value: Number) -> str:
    return _NOTHING if value is None else f"{value:.2g}" if abs(value) < 100 else f"{value:,.0f}"


def _number(value: Number) -> Text:
    return Text(_written(value))


def _step(step: int | None) -> Text:
    return Text(_NOTHING if step is None else str(step))


def _of(part: Number, whole: Number) -> Text:
    return Text(_NOTHING if part is None or whole is None else f"{part:g}/{whole:g}")
