"""The explorer over a live warehouse, in Chromium: what the page and the server agreed on holds in a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.assets.publishing.running_server import ENDLESS, Served
from tests.pipelines.reporting.explorer.browser_page import Reader, chromium

pytestmark = [pytest.mark.chromium, pytest.mark.integration]


@pytest.fixture(scope="module")
def page(computed_once: Path) -> Iterator[Reader]:
    with Served(computed_once) as server, chromium() as driver:
        reader = Reader(driver)
        reader.load(f"http://127.0.0.1:{server.port}/")
        yield reader


def type_and_run(page: Reader, sql: str) -> None:
    page.js("document.querySelector('textarea').value = arguments[0]", sql)
    page.click(page.one("button.run"))


def test_every_view_loads_from_the_server_under_its_policy(page: Reader) -> None:
    page.show("/")
    assert "wanda-2of4" in page.text()
    page.click(next(link for link in page.all("[aria-label='variants'] tbody a") if "wanda-2of4" in link.text))
    page.wait_for_view()
    page.click(page.one(".prompt h3 a"))
    page.wait_for_view()
    assert len(page.all(".side:nth-child(2) .tok")) == 4
    name = page.js("return JSON.parse(document.getElementById('index').textContent).figures[0].name")
    page.show(f"/figures/{name}")
    page.wait(lambda: page.all("main svg.marks, main canvas"))
    assert page.complaints() == []


def test_the_box_shows_rows_errors_and_text_as_text_and_stops_a_query(page: Reader) -> None:
    page.show("/sql/variants")
    for sql, shown in (
        (page.js("return document.querySelector('textarea').value"), "wanda-2of4"),
        ("from range(2000)", "1,000 rows, more were left out"),
        ("from read_text('/etc/passwd')", "no files"),
        ("select '<img src=x onerror=alert(1)>' || chr(8238) as hostile", "⟨202E⟩"),
    ):
        type_and_run(page, sql)
        page.wait(lambda: page.text(".result") not in {"", "Running …"})
        assert shown in page.text(".result")
    assert not page.driver.find_elements(By.CSS_SELECTOR, ".result img")
    assert page.complaints() == []
    type_and_run(page, ENDLESS)
    page.wait(lambda: page.text("button.run") == "Stop")
    page.click(page.one("button.run"))
    page.wait(lambda: page.text(".result") == "Stopped.")
    assert page.text("button.run") == "Run"
