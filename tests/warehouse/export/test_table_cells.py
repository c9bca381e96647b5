"""Tables in LaTeX, Markdown and HTML: equal numbers, and hostile names that stay in their cells."""

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker

from prunescope.warehouse.core.latex import latex_escaped
from prunescope.warehouse.export.html_table import to_html
from prunescope.warehouse.export.latex_table import to_latex
from prunescope.warehouse.export.table_cells import RenderedTable, printed, to_markdown
from prunescope.warehouse.export.table_spec import ColumnFormat, TableSpec, derived, uncertainty

HOSTILE = [
    r"a_b&c%",
    "<script>alert(1)</script>",
    "a|b||c",
    r"\input{/etc/passwd}\\ \end{tabular}",
    "$x^2$ #1 {y} ~z~ `c` *d* **e** [f](g) [-1pt] *",
    "Übergröße ł ñ ç ő Å œ ß",
    "α β ‖Δh⊥‖ ≤ 2 × 10² ± ∞",
    "日本語 😀 العربية",
    "\u202eevil\u200b\x1b[31m\x00",
    "e\u0301 \u0301 x\u0336",
    "-- --- ?` !` ,, '' `` \"q\"",
    "two\nlines\tand\rmore",
    "",
    " ",
]
LAYOUT = TableSpec(
    "Caption with 100 % & <b>",
    (
        *(ColumnFormat("model"), ColumnFormat("recipe", "recipe")),
        ColumnFormat("kl", "KL", "nats", best="min"),
        ColumnFormat("agreement", "same", "%", best="max", scale=100),
        ColumnFormat("ratio", "estimate / truth"),
        ColumnFormat("correct", "right", of="graded"),
    ),
    "A note with x_se and 5 % of #1.",
    within=("model",),
)


PM = r"\ensuremath{\pm}"


def rows() -> pa.Table:
    return pa.table(
        {
            "model": ["m", "m", "m", "n_1", "n_1"],
            "recipe": ["dense", "a", "b", "a", "b"],
            "kl": [0.0, 0.6912, 3.0, None, 1e-5],
            "kl_se": [0.0, 0.0234, 0.1, None, 2e-6],
            "agreement": [1.0, 0.5, 0.25, 0.5, 0.5],
            "agreement_se": [0.0, 0.012, 0.01, None, None],
            "ratio": [None, 0.8, 1.0, 1.0, 2.0],
            "ratio_low": [None, 0.55, 0.9, None, 1.0],
            "ratio_high": [None, 0.93, 1.2, None, 3.0],
            "correct": [2, 1, 0, 0, 3],
            "graded": [2, 2, 2, 0, 3],
        }
    )


def hostile() -> RenderedTable:
    names = [*HOSTILE, "end"]
    return printed(
        "hostile",
        pa.table({"recipe": names, "x_1": [*map(float, range(len(names)))]}),
        derived({"asks": "h"}, _schema(), {}),
    )


def _schema() -> pa.Schema:
    return pa.schema({"recipe": pa.string(), "x_1": pa.float64()})


def tabular(text: str) -> list[list[str]]:
    """Parse the cells of the only tabular."""
    [table] = [node for node in LatexWalker(text).get_latex_nodes()[0] if isinstance(node, LatexEnvironmentNode)]
    [inner] = [
        node for node in table.nodelist if isinstance(node, LatexEnvironmentNode) and node.environmentname == "tabular"
    ]
    body = inner.latex_verbatim().partition("}\n")[2].rpartition(r"\end{tabular}")[0]
    lines = re.sub(r"\\(top|mid|bottom)rule\n", "", body).strip().removesuffix(r"\\").split("\\\\\n")
    return [re.split(r"(?<!\\)&", line) for line in lines]


def read_back(cell: str) -> str:
    for command, character in (("less", "<"), ("greater", ">"), ("bar", "|")):
        cell = cell.replace(rf"\text{command}{{}}", character)  # which the parser does not know
    return str(LatexNodes2Text().latex_to_text(cell.strip()))


class _Page(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag == "td":
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data


def test_latex_has_rounded_numbers_marks_units_and_groups() -> None:
    text = to_latex(printed("my_table", rows(), LAYOUT))
    assert text.splitlines()[:9] == [
        "% needs \\usepackage{booktabs}",
        r"\begin{table*}[tp]",
        r"\centering",
        r"\caption{Caption with 100 \% \& \textless{}b\textgreater{}}",
        r"\label{tab:my-table}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
    ]
    cells = tabular(text)
    assert [cell.strip() for cell in cells[0]] == [
        "model",
        "recipe",
        "KL, nats",
        r"same, \%",
        "estimate / truth",
        "right",
    ]
    assert [cell.strip() for cell in cells[1]] == ["m", "dense", "0", "100", r"\textendash{}", "2 of 2"]
    assert [cell.strip() for cell in cells[2]] == [
        *("m", "a", rf"\textbf{{\boldmath 0.691 {PM} 0.023}}", rf"\textbf{{\boldmath 50.0 {PM} 1.2}}"),
        *("0.80 {[}0.55, 0.93{]}", "1 of 2"),
    ]
    assert cells[3][2].strip() == rf"\underline{{3.00 {PM} 0.10}}"
    assert text.count(r"\midrule") == 2, "below the head and between the models"
    assert cells[4][2:].copy() == [r" \textendash{} ", " 50 ", " 1 ", r" \textendash{} "]
    assert cells[5][2].strip() == (
        rf"(1.00 {PM} 0.20) \ensuremath{{\times}} 10\ensuremath{{^{{-}}}}\ensuremath{{^{{5}}}}"
    )


def test_markdown_and_html_show_the_same_cells() -> None:
    table = printed("my_table", rows(), LAYOUT)
    lines = re.sub(" +", " ", to_markdown(table)).splitlines()
    assert lines[4] == "| m | dense | 0 | 100 | – | 2 of 2 |"
    assert lines[5] == "| m | a | **0.691 ± 0.023** | **50.0 ± 1.2** | 0.80 [0.55, 0.93] | 1 of 2 |"
    assert lines[6].startswith("| m | b | <u>3.00 ± 0.10</u> | <u>25.0 ± 1.0</u> |")
    assert "errors count as independent" in lines[-1]
    page = to_html(table)
    assert "(1.00 ± 0.20) × 10⁻⁵" in page
    assert re.search(r'font-weight: bold;"[^>]*>0\.691 ± 0\.023<', page)
    assert page == to_html(table)
    assert "http" not in page.replace("http://www.w3.org", "")


def test_hostile_names_stay_in_their_cells_in_every_format() -> None:
    table = hostile()
    text = to_latex(table)
    assert {len(row) for row in tabular(text)} == {2}
    assert len(tabular(text)) == len(HOSTILE) + 2
    for raw, escaped in zip(HOSTILE[:3], tabular(text)[1:], strict=False):
        assert read_back(escaped[0]) == raw
    markdown = to_markdown(table)
    body = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(body) == len(HOSTILE) + 3
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {3}
    assert "<script" not in markdown
    page = _Page(to_html(table))
    assert not page.tags & {"script", "img", "iframe", "link", "object"}
    assert any("<script>alert(1)</script>" in found for found in page.texts)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_becomes_ascii_without_a_command_of_its_own(text: str) -> None:
    escaped = latex_escaped(text)
    assert escaped.isascii()
    assert not re.search("--|,,|``|''", escaped), "signs that TeX joins"
    commands = re.findall(r"\\[A-Za-z]+", escaped)
    known = re.compile(r"\\(text\w+|symbol|ensuremath|ldots|ss|ae|AE|oe|OE|[oOlLiSruHvc]|[a-zA-Z]+)")
    assert all(known.fullmatch(command) for command in commands)
    assert not re.search(r"(?<!\\)[%&#_$]", escaped)
    depth = 0
    for character in re.sub(r"\\[{}]", "", escaped):
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0


def test_different_unwritable_characters_stay_apart() -> None:
    assert latex_escaped("日") == "{[}U+65E5{]}"
    assert len({latex_escaped(name) for name in ("日", "本", "\u202e", "a\u0336", "a")}) == 5


def test_a_view_without_a_layout_pairs_values_with_their_errors_and_intervals() -> None:
    schema = pa.schema({name: pa.float64() for name in ("x", "x_se", "y", "y_low", "y_high", "z_se", "w_low_nats")})
    found = derived(
        {"asks": "What is x?", "how to read": "above 1 it overshoots."},
        schema,
        {"x": "nats", "w_low_nats": "nats"},
    )
    assert found.caption == "What is x?"
    assert found.note == "above 1 it overshoots."
    assert [(one.title, uncertainty(one.name, schema)) for one in found.columns] == [
        *(("x, nats", ("x_se",)), ("y", ("y_low", "y_high"))),
        *(("z_se", ()), ("w_low_nats", ())),
    ]


def test_a_table_without_rows_has_its_head(tmp_path: Path) -> None:
    table = printed("empty", rows().slice(0, 0), LAYOUT)
    assert len(tabular(to_latex(table))) == 1
    assert len(to_markdown(table).splitlines()) == 6
    assert "estimate / truth" in to_html(table)


@pytest.mark.tex
def test_hostile_names_compile(tmp_path: Path) -> None:
    compile_tex(tmp_path, {"hostile.tex": to_latex(hostile()), "my.tex": to_latex(printed("my", rows(), LAYOUT))})


MODES = ("onecolumn", "twocolumn")


def wide(rows: int, figures: int = 20) -> RenderedTable:
    """Return a table wider than a page: two key columns, one constant, one with texts of any length."""
    columns: dict[str, list[object]] = {"recipe": [f"wanda-{row}" for row in range(rows)], "same": ["all"] * rows}
    columns["text"] = ["why " * 30 if row % 2 else "0123456789abcdef" * 4 for row in range(rows)]
    columns |= {
        f"kl_teacher_forced_{name}_nats": [row * 1.25 + at for row in range(rows)]
        for at, name in enumerate(map(chr, range(97, 97 + figures)))
    }
    columns["layer"] = list(range(rows))
    table = pa.table(columns)
    return printed("wide", table, derived({"asks": "Too wide?"}, table.schema, {}), ["recipe", "layer"])


def one_row() -> RenderedTable:
    """Return a table whose key fills the line; a single row does not repeat the key."""
    table = pa.table({f"key_{name}": ["a name of twenty-four"] for name in "abcdefgh"} | {"figure": [1.0]})
    return printed(
        "one", table, derived({"asks": "Too wide?"}, table.schema, {}), [f"key_{name}" for name in "abcdefgh"]
    )


def test_a_wide_table_is_split_into_parts_that_repeat_the_key() -> None:
    text = to_latex(wide(4, figures=10))
    parts = re.findall(r"\\begin\{tabular\}\{([^\n]*)\}\n\\toprule\n(.*?)\\bottomrule", text, re.DOTALL)
    assert len(parts) > 2
    heads = [body.partition(r"\midrule")[0] for _, body in parts]
    assert all("recipe" in head and "layer" in head for head in heads)
    for name in map(chr, range(97, 107)):
        assert sum(rf"\_{name}\_" in head for head in heads) == 1
    for _, body in parts:
        lines = body.partition("\\midrule\n")[2].splitlines()
        assert [line.partition(" & ")[0] for line in lines] == [f"wanda-{row}" for row in range(4)]
    assert "In all rows: same: all." in text
    assert text.count(r"\caption{") == text.count(r"\label") == 1
    assert text.count(r"\caption[]{") == len(parts) - 1
    assert text.splitlines()[0] == "% needs \\usepackage{booktabs}"


def test_a_long_table_continues_in_further_floats_with_its_head_in_each() -> None:
    for table, parts in ((printed_long(90), 1), (wide(60), 3)):
        text = to_latex(table)
        floats = text.count(r"\begin{table*}[tp]")
        assert floats > 1
        assert "longtable" not in text  # which two columns do not allow
        assert text.count(r"\begin{tabular}") == text.count("\\toprule\n") >= max(floats, parts)
        assert text.count(r"\label") == text.count(r"\caption{") == 1
        assert text.count(r"\addtocounter{table}{-1}") == text.count(r"\caption[]{") == floats - 1
    cells = re.findall(r"^(\d+) ", to_latex(printed_long(90)), re.MULTILINE)
    assert cells == [str(number) for number in range(90)]


def printed_long(rows: int) -> RenderedTable:
    numbers = pa.table({"x": range(rows)})
    return printed("long", numbers, derived({"asks": "h"}, numbers.schema, {}))


def test_only_a_small_table_stays_in_one_of_two_columns() -> None:
    assert r"\begin{table}[tp]" in to_latex(printed_long(15))
    assert r"\begin{table*}[tp]" in to_latex(printed_long(30))
    assert r"\begin{table*}[tp]" in to_latex(wide(2, figures=1))


def test_a_wide_table_without_a_key_numbers_its_rows() -> None:
    table = pa.table({f"figure_{name}": [1.0, 2.0, 3.0] for name in "abcdefghijklmnopqrstuvwxyz"})
    text = to_latex(printed("bare", table, derived({"asks": "h"}, table.schema, {})))
    heads = re.findall(r"\\toprule\n(.*?)\\\\\n\\midrule", text, re.DOTALL)
    assert len(heads) > 1
    assert all(head.startswith("row & ") for head in heads)


@pytest.mark.tex
def test_no_table_is_larger_than_the_page_in_one_or_two_columns(tmp_path: Path) -> None:
    tables = [
        printed("my", rows(), LAYOUT),
        hostile(),
        wide(4, figures=10),
        wide(60),
        wide(6, figures=2),
        wide(60, figures=1),
        one_row(),
        printed_long(15),
        printed_long(700),
    ]
    folder = compile_tex(tmp_path, {f"t{at}.tex": to_latex(table) for at, table in enumerate(tables)})
    assert_fits(folder)


def assert_fits(folder: Path) -> None:
    """Assert that no box is wider than its column or page, and no float higher than a page, by TeX's logs."""
    for mode in MODES:
        log = (folder / f"{mode}.log").read_text(errors="replace")
        assert all(float(over) < 3 for over in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)), log[-3000:]
        assert "Float too large" not in log, log[-3000:]


def compile_tex(folder: Path, files: dict[str, str], packages: str = "booktabs") -> Path:
    """Typeset all files in one document of one and one of two columns that load only the packages that they name."""
    if shutil.which("pdflatex") is None:
        pytest.skip("apt-get update && apt-get install -y --no-install-recommends texlive-latex-recommended")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    body = "\\clearpage\n".join(f"\\input{{{name}}}\n" for name in files)
    for mode in MODES:
        (folder / f"{mode}.tex").write_text(
            f"\\documentclass[{mode}]{{article}}\n\\usepackage{{{packages}}}\n\\begin{{document}}\n{body}\\end{{document}}\n"
        )
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", f"{mode}.tex"],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
        assert b"Missing character" not in (folder / f"{mode}.log").read_bytes()
        assert (folder / f"{mode}.pdf").stat().st_size > 10_000
    return folder
