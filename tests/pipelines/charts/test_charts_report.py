"""The page as text: self-contained, escaped, small, and with the numbers it was given.

What a browser makes of it is tested in test_charts_browser.
"""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest

from pipelines.charts.report import render_report
from tests.pipelines.charts import frames
from tests.pipelines.charts.pages import page


class Elements(HTMLParser):
    """All elements with their attributes, and the text of scripts, styles and everything."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open in self.raw:
            self.raw[self._open][-1] += data
        else:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def test_the_page_is_one_file_below_three_megabytes(usual_page):
    assert len(usual_page.encode()) < 3_000_000


@pytest.mark.parametrize("which", ["usual_page", "hostile_page"])
def test_nothing_on_the_page_is_loaded_or_linked_from_outside(which, request):
    elements = Elements(request.getfixturevalue(which))
    for tag, attributes in elements.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "video", "audio"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert "url(" not in elements.raw["style"][0]
    assert "@import" not in elements.raw["style"][0]


def test_the_policy_allows_these_very_scripts_and_this_style_and_nothing_else(usual_page):
    elements = Elements(usual_page)
    policy = next(a["content"] for tag, a in elements.elements if a.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    scripts = [
        text
        for text, (_, attributes) in zip(
            elements.raw["script"], [element for element in elements.elements if element[0] == "script"], strict=True
        )
        if attributes.get("type") != "application/json"
    ]

    def hashes(texts):
        return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]

    assert directives["default-src"] == "'none'"
    assert directives["script-src"].split() == hashes(scripts)
    assert directives["style-src"].split() == hashes(elements.raw["style"])
    assert "unsafe" not in policy


def test_hostile_text_opens_no_element_and_closes_no_script(usual_page, hostile_page):
    plain, attacked = Elements(usual_page), Elements(hostile_page)
    charts = sum(attributes.get("type") == "application/json" for _, attributes in attacked.elements)
    assert attacked.count("script") == charts + 2
    assert attacked.count("style") == plain.count("style") == 1
    assert attacked.count("img") == 0
    assert frames.HOSTILE[1] in attacked.text
    assert frames.HOSTILE[5] in attacked.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", hostile_page.replace("\n", ""))


@pytest.mark.parametrize("which", ["usual_page", "hostile_page"])
def test_every_chart_survives_its_embedding(which, request):
    elements = Elements(request.getfixturevalue(which))
    specs = [
        text
        for text, (_, attributes) in zip(
            elements.raw["script"], [element for element in elements.elements if element[0] == "script"], strict=True
        )
        if attributes.get("type") == "application/json"
    ]
    assert len(specs) >= 8
    for spec in specs:
        assert "datasets" in json.loads(spec)
        assert "<" not in spec


def test_the_table_holds_every_variant_with_exact_values_to_sort_by(usual_page):
    summary = frames.variant_summary()
    rows = re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", usual_page)
    assert len(rows) == summary.height
    for row, given in zip(rows, summary.iter_rows(named=True), strict=True):
        assert f">{given['recipe']}</th>" in row
        assert f'data-value="{given["kl_step0_nats"]}"' in row
    assert '<td class="number" data-value="">–</td>' in rows[0]
    assert '<td class="number" data-value="0.39">39.0</td>' in next(row for row in rows if "wanda-50" in row)


def test_several_models_have_a_column():
    models = ("first", "second")
    html = page(**{mart.__name__: mart(models) for mart in frames.MARTS})
    assert '<td data-value="second">second</td><th scope="row" data-value="wanda-50">' in html


def test_a_text_is_marked_from_where_it_leaves_the_dense_one(usual_page):
    assert '<p dir="auto">The answer is <mark>the the the the the apples apples</mark></p>' in usual_page
    assert "first flip at step 4, loop from step 9" in usual_page


def test_an_equal_text_is_called_so_and_not_marked():
    texts = frames.texts(recipes=("wanda-50",), prompts=("a",)).with_columns(
        pl.col("text_dense").alias("text"),
        pl.lit(None, pl.Int32).alias("first_flip_step"),
        pl.lit(None, pl.Int32).alias("collapse_step"),
    )
    html = render_report("s", [], frames.variant_summary(), [], texts, {})
    assert "same text" in html
    assert "<mark></mark>" in html


def test_a_long_text_is_cut_and_says_so():
    texts = frames.texts(recipes=("wanda-50",), prompts=("a",)).with_columns(pl.lit("y" * 10_000).alias("text"))
    assert "(cut: 4,000 of 10,000 characters shown)" in render_report("s", [], frames.variant_summary(), [], texts, {})


def test_an_empty_study_still_gives_a_page():
    html = render_report("s", [], frames.variant_summary().clear(), [], frames.texts().clear(), {})
    assert "No variant was measured" in html


def test_the_same_input_gives_the_same_page(usual_page):
    assert page() == usual_page
