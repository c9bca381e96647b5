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
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.text import Text

from prunescope.warehouse.catalogue.sql_worker import answer
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.formats import FORMATS, NULL, TEXT_ROWS, render, to_text
from tests.examples import examples

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


@pytest.mark.parametrize("to", ["table", "csv", "json", "markdown", "latex"])
def test_a_time_beyond_pythons_is_shown(to: str):
    query = "SELECT 'infinity'::TIMESTAMP, 'infinity'::TIMESTAMPTZ, '-infinity'::DATE"
    assert "range" in str(render(duckdb.sql(query).to_arrow_table(), to))


def test_csv_is_exact_and_tells_null_from_the_empty_text():
    assert render(ROWS, "csv") == (
        "norm_dh,token,p,seconds,rank,is_same,total,at\n"
        '0.1," the","[0.1, null]",12345.678,7,true,100000000000000000000,"2026-01-02 03:04:05"\n'
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
    lines = render(ROWS.select(["norm_dh", "token", "p", "seconds", "rank"]), "markdown").splitlines()
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
    rows = pa.table({f"column_{i}": ["x" * 10, "y" * 10, "z" * 10] for i in range(20)})
    text = to_text(rows, 60)
    *lines, rest = text.rstrip("\n").split("\n")
    assert max(Text(line).cell_len for line in lines) <= 60
    assert rest.startswith("16 more columns: column_4, column_5")
    assert "column_3" in text


def test_columns_of_one_value_stand_below_a_table_that_is_too_wide():
    rows = pa.table({"model": ["m"] * 3, "layer": [0, 1, 2], "lens": [None] * 3, "auc": [0.5, 0.25, 0.5], "n": [7] * 3})
    wide, narrow = to_text(rows, 80), to_text(rows, 30)
    assert wide.split()[:5] == rows.column_names
    assert narrow.split()[:2] == ["layer", "auc"]
    assert "in each of these rows: model m, lens –, n 7\n" in narrow
    assert "more column" not in narrow
    assert "1 more column: auc" in to_text(rows.set_column(3, "auc", [["x" * 30, "y" * 30, "y" * 30]]), 30)
    assert to_text(pa.table({"one": ["x" * 20] * 2, "two": ["y" * 20] * 2}), 30).startswith(" " * 3)


def test_one_row_is_turned_on_its_side():
    text = to_text(pa.table({f"column_{i}": [i] for i in range(40)}), 40)
    assert all(f"column_{i}" in text for i in range(40))


def test_rows_beyond_what_one_reads_are_counted():
    text = to_text(pa.table({"i": range(TEXT_ROWS + 3)}), 80)
    assert "3 more rows" in text
    assert f" {TEXT_ROWS - 1} " in text
    assert f" {TEXT_ROWS} " not in text


@pytest.mark.parametrize(("to", "shown"), [("table", r" \n "), ("markdown", r" \\n "), ("latex", r"\textbackslash{}n")])
def test_a_line_break_that_is_all_of_a_token_is_visible(to, shown):
    text = render(pa.table({"token": ["\n", "\n\nSo\n", "plain"]}), to)
    assert shown in text
    assert text.count(shown.strip()) == 4


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


def test_equal_names_are_refused_where_one_would_be_lost() -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    for to in ("json", "parquet"):
        with pytest.raises(WarehouseError, match="two columns are named 'a'"):
            render(twice, to)
    assert render(twice, "csv") == "a,a\n1,2\n"


# Awkward values of every type of DuckDB; a random expression nests them in lists, structs and maps.
LITERALS = [
    *("NULL", "true", "0::TINYINT", "255::UTINYINT", "-9223372036854775808", "18446744073709551615::UBIGINT"),
    *("170141183460469231731687303715884105727::HUGEINT", "'-170141183460469231731687303715884105728'::HUGEINT"),
    *("340282366920938463463374607431768211455::UHUGEINT", "(repeat('9', 60))::BIGNUM", "1.5::DECIMAL(38, 10)"),
    *("'nan'::FLOAT", "'-infinity'::DOUBLE", "1e-45::FLOAT", "''", "chr(0)", "'a|b\\n\"c\"'", "'\\xFF\\x00'::BLOB"),
    *("'1010'::BIT", "uuid()", "'x'::ENUM('x', 'y')", "'{\"a\": [1]}'::JSON", "'POINT(1 1)'::GEOMETRY", "1::VARIANT"),
    *("date '290000-01-01'", "date '0001-01-01'", "date '290308-12-22 (BC)'", "'infinity'::DATE", "'-infinity'::DATE"),
    *("time '24:00:00'", "time '12:00:00.5'", "'12:00:00.123456789'::TIME_NS", "'24:00:00+15:59:59'::TIMETZ"),
    *("'infinity'::TIMESTAMP", "'-infinity'::TIMESTAMPTZ", "'294247-01-10 04:00:54.775806'::TIMESTAMP", "now()"),
    *("'290000-01-01'::TIMESTAMP_S", "'290000-01-01'::TIMESTAMP_MS", "'2262-04-11 23:47:16.854775806'::TIMESTAMP_NS"),
    *("interval '-1 month 2 days'", "interval '178956970 years'", "union_value(a := 1)", "union_value(b := 'x')"),
]
EXPRESSIONS = st.recursive(
    st.sampled_from(LITERALS),
    lambda inner: st.one_of(
        inner.map("[{}]".format),
        inner.map("[{0}, NULL, {0}]".format),
        inner.map("array_value({})".format),
        inner.map("{{'a': {}}}".format),
        inner.map("map {{1: {}}}".format),
        st.tuples(inner, inner).map(lambda pair: "row({}, {})".format(*pair)),
    ),
    max_leaves=6,
)


@given(st.lists(EXPRESSIONS, min_size=1, max_size=4), st.booleans())
@settings(max_examples=examples(150), deadline=None)
def test_a_value_of_any_type_passes_through_every_format(expressions, has_null):
    select = ", ".join(f"{expression} AS c{index}" for index, expression in enumerate(expressions))
    nothing = " UNION ALL SELECT " + ", ".join("NULL" for _ in expressions) if has_null else ""
    with duckdb.connect() as connection:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        rows = answer(connection, f"SELECT {select}{nothing}")
        typed = answer(connection, f"SELECT {select}{nothing}", keeps_times=True)
    for to in FORMATS:
        assert render(rows, to)
    records = json.loads(render(rows, "json"))
    assert [list(record) for record in records] == [rows.column_names] * (1 + has_null)
    plain = json.loads(render(rows, "plain"), parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert plain["rows"] == [list(record.values()) for record in records]
    assert next(csv.reader(io.StringIO(render(rows, "csv")))) == rows.column_names
    assert pq.read_table(io.BytesIO(render(typed, "parquet"))).num_rows == 1 + has_null


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("date '290000-01-01'", "290000-01-01"),
        ("date '290308-12-22 (BC)'", "290308-12-22 (BC)"),
        ("'infinity'::DATE", "infinity"),
        ("'-infinity'::TIMESTAMP", "-infinity"),
        ("'infinity'::TIMESTAMPTZ", "infinity"),
        ("'290000-01-01 12:00:00.25'::TIMESTAMPTZ", "290000-01-01 12:00:00.25+00"),
        ("time '24:00:00'", "24:00:00"),
        ("'2026-01-02 03:04:05.250'::TIMESTAMP_NS", "2026-01-02 03:04:05.25"),
        ("'12:00:00.123456789'::TIME_NS", "12:00:00.123456789"),
        ("'24:00:00+01'::TIMETZ", "24:00:00+01"),
        ("interval '1 year 2 days 3 seconds'", "1 year 2 days 00:00:03"),
        ("'1010'::BIT", "1010"),
        ("union_value(a := 1)", "1"),
        ("[interval '1 day']", "[1 day]"),
        ("{'a': date '2020-01-01'}", "{'a': 2020-01-01}"),
        ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455"),
        ("'\\xFF'::BLOB", "ff"),
    ],
)
def test_what_python_or_arrow_cannot_hold_is_text(expression, text):
    with duckdb.connect() as connection:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        rows = answer(connection, f"SELECT {expression} AS x")
    assert json.loads(render(rows, "json")) == [{"x": text}]
    assert list(csv.DictReader(io.StringIO(render(rows, "csv")))) == [{"x": text}]
    assert text in render(rows, "table")
