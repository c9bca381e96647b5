"""Every format shows the same rows, exactly or to the digits asked for, and no value breaks the format."""

import csv
import io
import json
import math
from datetime import datetime
from decimal import Decimal

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.text import Text

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.formats import FORMATS, NULL, TEXT_ROWS, render, to_text

LABEL = pa.dictionary(pa.int32(), pa.string())
ROWS = pa.table(
    {
        "norm_dh": pa.array([0.1, None, math.nan], pa.float32()),
        "token": pa.array([" the", "", None]).cast(LABEL),
        "p": pa.array([[0.1, None], [], None], pa.list_(pa.float32())),
        "seconds": [12345.678, -math.inf, 1e-9],
        "rank": [7, -1, None],
        "is_same": [True, False, None],
        "total": pa.array([Decimal(10**20), Decimal("1"), None], pa.decimal128(38, 0)),
        "at": [datetime(2026, 1, 2, 3, 4, 5), None, None],  # noqa: DTZ001 - a TIMESTAMP has no zone
    }
)
NASTY = r"a|b_c & 50% #1 $x ^2 {z} \ ~ <b> `c` *d* [e](f)"


def test_csv_is_exact_and_tells_null_from_the_empty_text():
    assert render(ROWS, "csv") == (
        "norm_dh,token,p,seconds,rank,is_same,total,at\n"
        '0.1," the","[0.1, null]",12345.678,7,true,100000000000000000000,2026-01-02 03:04:05.000000\n'
        ',"","[]",-inf,-1,false,1,\n'
        "nan,,,1e-9,,,,\n"
    )


def test_json_is_exact_and_says_nan_in_words():
    assert json.loads(render(ROWS, "json")) == [
        {
            "norm_dh": 0.1,
            "token": " the",
            "p": [0.1, None],
            "seconds": 12345.678,
            "rank": 7,
            "is_same": True,
            "total": 10**20,
            "at": "2026-01-02 03:04:05",
        },
        {
            "norm_dh": None,
            "token": "",
            "p": [],
            "seconds": "-Infinity",
            "rank": -1,
            "is_same": False,
            "total": 1,
            "at": None,
        },
        dict.fromkeys(ROWS.column_names) | {"norm_dh": "NaN", "seconds": 1e-9},
    ]


def test_parquet_comes_back_with_its_types():
    back = pq.read_table(io.BytesIO(render(ROWS, "parquet")))
    assert back.schema.equals(ROWS.schema)
    assert repr(back.to_pylist()) == repr(ROWS.to_pylist())


def test_markdown_has_significant_digits_and_a_dash_for_null():
    lines = render(ROWS.select(["norm_dh", "token", "p", "seconds", "rank"]), "markdown", digits=3).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["norm_dh", "token", "p", "seconds", "rank"]
    assert [column.endswith(":") for column in cells[1]] == [True, False, False, True, True]
    assert cells[2:] == [
        ["0.1", "the", f"0.1, {NULL}", "12346", "7"],
        [NULL, "", "", "-inf", "-1"],
        ["nan", NULL, NULL, "1e-09", NULL],
    ]


def test_markdown_escapes_what_it_would_read():
    text = render(pa.table({"_x_": [NASTY, "two\nlines"], "snake_case": ["_a_", "x"]}), "markdown")
    assert r"a\|b_c &amp; 50% #1 \$x ^2 {z} \\ \~ &lt;b> \`c\` \*d\* \[e\](f)" in text
    assert "two<br>lines" in text
    assert r"\_x\_" in text
    assert r"\_a\_" in text
    assert "snake_case" in text
    assert {line.replace(r"\|", "").count("|") for line in text.splitlines()} == {3}


PIECES = [
    "![a](h:1)",
    "[a](h)",
    "[a]",
    "<b>",
    "<img src=h>",
    "<!--",
    "-->",
    "`",
    "**",
    "_",
    "~~",
    "&lt;",
    "&",
    "|",
    "$",
]


@given(st.lists(st.sampled_from([*PIECES, "\\", "\n", "\r", "\t", " ", "a", "#", "1. ", "- ", ">"])).map("".join))
def test_no_text_becomes_markup_in_markdown(text):
    """The interface would fetch a picture from any address in a text."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = [
        part
        for block in reader.parse(render(pa.table({"a": [text, "end"], text or "-": ["b", text]}), "markdown"))
        for part in [block, *(block.children or [])]
    ]
    markup = {part.type for part in found if part.nesting >= 0 and not (part.content == "<br>" or part.hidden)}
    assert markup <= {f"{each}_open" for each in ("table", "thead", "tbody", "tr", "th", "td")} | {"inline", "text"}


def test_latex_escapes_what_it_would_read():
    text = render(pa.table({"norm_h": [NASTY, "two\nlines"]}), "latex")
    assert r"norm\_h" in text
    assert r"a\textbar{}b\_c \& 50\% \#1 \$x \textasciicircum{}2 \{z\} \textbackslash{} \textasciitilde{}" in text
    assert "two lines" in text
    assert r"\toprule" in text


@pytest.mark.parametrize("to", FORMATS)
def test_no_rows_is_a_table_too(to):
    empty = ROWS.slice(0, 0)
    text = render(empty, to)
    if to == "parquet":
        assert pq.read_table(io.BytesIO(text)).schema.equals(ROWS.schema)
    elif to == "json":
        assert json.loads(text) == []
    elif to == "latex":
        assert r"\begin{tabular}{rllrrlrl}" in text
    else:
        assert "norm_dh" in text
        assert "seconds" in text


def test_a_table_fits_the_width_and_names_the_columns_that_do_not():
    rows = pa.table({f"column_{i}": ["x" * 10] * 3 for i in range(20)})
    text = to_text(rows, 60)
    *lines, rest = text.rstrip("\n").split("\n")
    assert max(Text(line).cell_len for line in lines) <= 60
    assert rest.startswith("16 more columns: column_4, column_5")
    assert "column_3" in text


def test_one_row_is_turned_on_its_side():
    text = to_text(pa.table({f"column_{i}": [i] for i in range(40)}), 40)
    assert all(f"column_{i}" in text for i in range(40))


def test_rows_beyond_what_one_reads_are_counted():
    text = to_text(pa.table({"i": range(TEXT_ROWS + 3)}), 80)
    assert "3 more rows" in text
    assert f" {TEXT_ROWS - 1} " in text
    assert f" {TEXT_ROWS} " not in text


def test_a_token_neither_steers_the_terminal_nor_counts_as_markup():
    text = to_text(pa.table({"token": ["\x1b[31m[red]x[/red]\r\n", "日本"]}), 80)
    assert r"\x1b[31m[red]x[/red]\r\n" in text
    assert "日本" in text
    assert not set(text) & {"\x1b", "\r"}


def test_an_unknown_format_is_named_with_the_known_ones():
    with pytest.raises(
        WarehouseError, match="no format 'xml'; choose one of table, csv, json, markdown, latex, parquet"
    ):
        render(ROWS, "xml")


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.floats(width=32)), max_size=5)
)
def test_any_text_and_number_survive_csv_and_json(values):
    texts, numbers = [text for text, _ in values], [number for _, number in values]
    rows = pa.table({"text": pa.array(texts, pa.string()), "x": pa.array(numbers, pa.float32())})
    [_, *lines] = csv.reader(io.StringIO(render(rows, "csv"), newline=""))
    objects = json.loads(render(rows, "json"))
    assert [line[0] for line in lines] == texts
    assert [item["text"] for item in objects] == texts
    for (_, number), line, item in zip(values, lines, objects, strict=True):
        if number is None:
            assert (line[1], item["x"]) == ("", None)
        else:
            assert np.array_equal(
                [np.float32(line[1]), np.float32(item["x"])], [np.float32(number)] * 2, equal_nan=True
            )


@pytest.mark.parametrize("to", [name for name in FORMATS if name != "parquet"])
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_gives_one_row_in_every_format(to, text):
    rendered = render(pa.table({"a": [text, "end"]}), to)
    assert rendered.endswith("\n")
    assert "end" in rendered


def test_polars_reads_our_csv():
    back = pl.read_csv(render(ROWS, "csv").encode())
    assert back["token"].to_list() == [" the", "", None]


def test_intervals_are_written_as_text_and_equal_names_are_refused_where_one_would_be_lost() -> None:
    rows = duckdb.sql("select interval '14 months 3 days 1500 milliseconds' as i, interval 0 day as z").to_arrow_table()
    assert render(rows, "csv") == 'i,z\n"14 months 3 days 1.5 seconds","0 seconds"\n'
    assert pq.read_table(io.BytesIO(render(rows, "parquet")))["z"].to_pylist() == ["0 seconds"]
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    for to in ("json", "parquet"):
        with pytest.raises(WarehouseError, match="two columns are named 'a'"):
            render(twice, to)
    assert render(twice, "csv") == "a,a\n1,2\n"
