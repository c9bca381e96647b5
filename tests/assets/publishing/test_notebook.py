"""Tests of what a notebook displays: names from elsewhere are escaped, and the shade of a token follows its KL."""

import re
from pathlib import Path

import altair as alt
import polars as pl
import pytest

import prunescope as ps
from prunescope.assets.publishing.notebook import _MAX_ROWS, Answer, Figures, TokenText
from prunescope.warehouse.core.errors import WarehouseError


def test_a_table_escapes_names_rounds_numbers_and_says_what_it_leaves_out() -> None:
    rows = pl.DataFrame({"<b>": ["<script>", None] * _MAX_ROWS, "x": [1 / 3, 2.0] * _MAX_ROWS})
    shown = Answer("Is a < b?", "read & compare", rows)._repr_html_()
    assert "<script>" not in shown
    assert "<tr><td>&lt;script&gt;</td><td>0.3333</td></tr><tr><td>–</td><td>2</td></tr>" in shown
    assert shown.count("<tr>") == 1 + _MAX_ROWS
    assert f"{2 * _MAX_ROWS} rows, first {_MAX_ROWS}. read &amp; compare" in shown


def test_a_darker_token_has_a_higher_kl_and_a_changed_choice_is_underlined() -> None:
    rows = pl.DataFrame(
        {
            "step": [0, 1, 2],
            "token_text_dense": ["<a", "b", "c"],
            "token_text_pruned": ["<a", "B", "C"],
            "kl_dense_pruned_nats": [0.0, 0.2, 50.0],
            "is_top1_same": [True, False, True],
        }
    )
    shown = TokenText("m@r, maths", "1 < 2?", rows, "pruned")._repr_html_()
    assert re.findall(r", ([\d.]+)\)(; text-decoration: underline)?\">(.*?)</span>", shown) == [
        ("0.00", "", "&lt;a"),
        ("0.43", "; text-decoration: underline", "B"),
        ("1.00", "", "C"),
    ]
    assert "1 &lt; 2?" in shown
    assert "KL 0.2 nats; dense &#x27;b&#x27;, pruned &#x27;B&#x27;" in shown


def test_a_figure_shows_each_of_its_charts() -> None:
    chart = alt.Chart(alt.Data(values=[{"x": 1}])).mark_point().encode(x="x:Q")
    assert Figures([chart, chart])._repr_html_().count("<div><svg") == 2


def test_variant_question_and_text_come_from_the_warehouse(computed_once: Path) -> None:
    values = dict(ps.variant("wanda-2of4", computed_once).rows.iter_rows())
    assert 0 < float(values["parameters_removed_share"]) <= 0.5
    assert ps.question("q01", computed_once, recipes=["wanda-2of4"]).rows["recipe"].unique().to_list() == ["wanda-2of4"]
    for trajectory in ("teacher_forced", "own_text"):
        text = ps.text("tiny-a@wanda-2of4", "open", computed_once, is_own_text=trajectory == "own_text")
        expected = ps.open(computed_once).sql(
            "select step, token_text_dense, token_text_pruned, kl_dense_pruned_nats, is_top1_same "
            f"from decoding_at_reference where variant = 'tiny-a@wanda-2of4' and trajectory = '{trajectory}' "
            "and prompt_id = 'open' order by step"
        )
        assert text.rows.rows() == expected.fetchall() != []
        assert text.prompt
    for ask in (lambda: ps.variant("tiny-a@wanda", computed_once), lambda: ps.text("a@b", "open", computed_once)):
        with pytest.raises(WarehouseError, match="there is no"):
            ask()
