"""The report in Chromium: every chart is drawn, nothing complains, hostile text stays text.

The page's text is tested without a browser in test_charts_report.
"""

import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.pipelines.charts import frames

pytestmark = pytest.mark.chromium
INSTALL = "apt-get update && apt-get install -y chromium chromium-driver"


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip(f"needs Chromium: {INSTALL}")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has no sandbox for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


def read(browser, html, tmp_path, width=1280):
    """Opens the page from disk and waits until all charts are done."""
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(path.as_uri())
    WebDriverWait(browser, 120).until(lambda page: page.execute_script("return document.body.dataset.ready === 'yes'"))


def drawn(browser):
    charts = browser.find_elements(By.CLASS_NAME, "chart")
    assert charts
    return [
        chart.get_attribute("data-drawn") == "yes" and bool(chart.find_elements(By.TAG_NAME, "svg")) for chart in charts
    ]


@pytest.mark.parametrize("which", ["usual_page", "hostile_page"])
def test_every_chart_is_drawn_under_the_policy_without_a_complaint(browser, tmp_path, which, request):
    read(browser, request.getfixturevalue(which), tmp_path)
    assert browser.get_log("browser") == []
    assert all(drawn(browser))


def test_hostile_text_is_shown_and_does_not_run(browser, tmp_path, hostile_page):
    read(browser, hostile_page, tmp_path)
    assert browser.title.startswith("Prunescope: </script><script>")
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert frames.HOSTILE[1] in browser.find_element(By.TAG_NAME, "blockquote").text


def test_a_tooltip_over_a_hostile_token_stays_text(browser, tmp_path, hostile_page):
    read(browser, hostile_page, tmp_path)
    browser.execute_script(
        """const cell = document.querySelector("[aria-roledescription='rect mark']");
        cell.scrollIntoView({block: "center"});
        const box = cell.getBoundingClientRect();
        for (const kind of ["pointerover", "pointermove", "mouseover", "mousemove"]) {
          cell.dispatchEvent(new PointerEvent(kind, {bubbles: true, clientX: box.x + 2, clientY: box.y + 2}));
        }"""
    )
    tooltip = browser.find_element(By.ID, "vg-tooltip-element")
    WebDriverWait(browser, 10).until(lambda _: "visible" in tooltip.get_attribute("class"))
    assert tooltip.find_elements(By.CSS_SELECTOR, "img, script") == []
    assert "step" in tooltip.text
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_itself_never_scrolls_sideways(browser, tmp_path, hostile_page, width):
    read(browser, hostile_page, tmp_path, width)
    for details in browser.find_elements(By.TAG_NAME, "details"):
        browser.execute_script("arguments[0].open = true", details)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_table_sorts_by_numbers_with_empty_cells_last_in_both_directions(browser, tmp_path, small_page):
    read(browser, small_page, tmp_path)
    given = frames.variant_summary().drop_nulls("first_flip_step_median")
    table = browser.find_element(By.CSS_SELECTOR, "table[data-sortable]")

    def column(heading):
        headings = [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "thead th")]
        place = next(index for index, text in enumerate(headings) if text.startswith(heading))
        table.find_elements(By.CSS_SELECTOR, "thead button")[place].click()
        return [
            row.find_elements(By.CSS_SELECTOR, "td, th")[place].get_attribute("data-value")
            for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")
        ]

    for _ in range(2):
        assert column("first flip")[-1] == ""
    kl = [0.0, *given["kl_step0_nats"]]
    assert [float(value) for value in column("KL at token 1")] == sorted(kl)
    assert [float(value) for value in column("KL at token 1")] == sorted(kl, reverse=True)


def test_the_policy_forbids_eval_and_the_network(browser, tmp_path, small_page):
    read(browser, small_page, tmp_path)
    refused = browser.execute_script(
        """const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
        return window.ran === undefined;"""
    )
    assert refused
    error = browser.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('loaded'), (e) => done(e.message));"
    )
    assert error != "loaded"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
