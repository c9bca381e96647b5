"""The explorer over a live warehouse in Chromium: what the server sends is what the page asks for and shows."""

from pathlib import Path

import pytest

from tests.assets.test_serve import Served
from tests.pipelines.explorer.reader import Reader, chromium

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def reader(computed_once: Path):
    with Served(computed_once) as server, chromium() as driver:
        reader = Reader(driver)
        reader.load(f"http://127.0.0.1:{server.port}/")
        yield reader


def test_every_view_comes_from_the_server_without_a_complaint(reader):
    hrefs = "return [...document.querySelectorAll('main a')].map((link) => link.getAttribute('href'))"
    reader.show("/")
    variant = next(href for href in reader.js(hrefs) if href.startswith("#/variant/") and "dense" not in href)
    reader.show(variant.removeprefix("#"))
    token = next(href for href in reader.js(hrefs) if href.startswith("#/tokens/"))
    reader.show(token.removeprefix("#"))
    assert reader.all(".detail svg.curves")
    reader.show("/compare")
    assert reader.all("svg.curves")
    reader.show("/figures")
    reader.wait(lambda: reader.all(".chart[data-drawn]"))
    assert reader.complaints() == []


def test_the_box_runs_the_statement_of_a_page_and_what_a_person_types(reader):
    reader.show("/sql/variants")
    reader.click(reader.one(".run"))
    reader.wait(lambda: reader.all(".result tbody tr"))
    assert "wanda" in reader.text(".result")
    area = reader.one("textarea")
    area.clear()
    area.send_keys("select 40 + 2 as answer, {'a': null} as nested, '<b>' as text")
    reader.click(reader.one(".run"))
    reader.wait(lambda: "answer" in reader.text(".result"))
    cells = "return [...document.querySelectorAll('.result tbody tr > *')].map((cell) => cell.innerText)"
    assert reader.js(cells) == ["42", '{"a":null}', "<b>"]


def test_a_statement_that_is_refused_says_why(reader):
    reader.show("/sql")
    area = reader.one("textarea")
    area.clear()
    area.send_keys("copy variants to 'x.csv'")
    reader.click(reader.one(".run"))
    reader.wait(lambda: reader.all(".result .failed"))
    assert "SELECT" in reader.text(".result").upper()
    # The browser itself notes the refusal; nothing else complains.
    assert all("/sql" in entry["message"] for entry in reader.complaints())
