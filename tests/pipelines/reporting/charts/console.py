"""Helper that collects a browser's console messages while it draws charts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import vl_convert

from tests.pipelines.reporting.explorer.browser_page import chromium

DRAW = """
const [specification, done] = arguments, place = document.body.appendChild(document.createElement("div"));
vegaEmbed(place, specification, {actions: false, renderer: "svg"})
    .then((drawn) => { drawn.finalize(); place.remove(); done(null); })
    .catch((error) => done(String(error)));
"""


class Console:
    """A page that draws one chart after another."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def of(self, specification: dict[str, Any]) -> list[str]:
        """Return the warnings and errors of drawing a chart."""
        failed = self._driver.execute_async_script(DRAW, specification)
        return [*([failed] if failed else []), *(entry["message"] for entry in self._driver.get_log("browser"))]


@contextmanager
def console(folder: Path) -> Iterator[Console]:
    """Open the page; skip the test where there is no browser."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    (folder / "bundle.js").write_text(script, encoding="utf-8")
    page = '<!doctype html><meta charset="utf-8"><body><script type="module" src="bundle.js"></script>'
    (folder / "page.html").write_text(page.replace(' type="module"', ""), encoding="utf-8")
    with chromium() as driver:
        driver.set_script_timeout(120)
        driver.get((folder / "page.html").as_uri())
        yield Console(driver)
