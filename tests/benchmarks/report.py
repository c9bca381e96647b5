"""Seconds to make and to read a study's report: `python -m tests.benchmarks.report WAREHOUSE [STUDY]`.

Needs Chromium. A click is measured in the page, from the event to the second frame after it, when its change is on the
screen; `script` is the part of our own code.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.publishing.explorer_data import documents
from prunescope.pipelines.reporting.explorer.page import render
from tests.benchmarks.measuring import Table, timed
from tests.pipelines.reporting.explorer.browser_page import Reader, chromium, require_chromium

MOST_SECONDS, MOST_SECONDS_TO_PAINT, MOST_MS_PER_CLICK = 20.0, 1.0, 100.0
LOADS, CLICKS = 5, 40
_CLICK = """
const [at, done] = arguments;
const tokens = document.querySelectorAll(".side:nth-child(2) .tok");
const began = performance.now();
tokens[at % tokens.length].click();
const script = performance.now() - began;
requestAnimationFrame(() => requestAnimationFrame(() => done([performance.now() - began, script])));
"""
_FIRST_PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def made(warehouse: str, study: str, path: Path) -> None:
    """Write the report of a study as the asset does."""
    place = WarehouseResource(root=warehouse)
    chosen = StudyResource(study=study).request(place.store()).load()
    with place.only(chosen) as seen:
        page = render(documents(chosen, seen.connection, seen.ask).within(), live=False)
    path.write_text(page, encoding="utf-8")


def read(path: Path, table: Table) -> None:
    """Open a report several times, and click through the tokens of its first text."""
    with chromium() as driver:
        reader = Reader(driver)
        paints = []
        for _ in range(LOADS):
            reader.load(path.as_uri())
            reader.wait(lambda: reader.js(_FIRST_PAINT) is not None)
            paints.append(reader.js(_FIRST_PAINT) / 1000)
        index: dict[str, Any] = reader.js("return JSON.parse(document.getElementById('index').textContent)")
        variant = next(variant for variant in index["variants"] if variant["traces"])
        prompt = index["prompts"][variant["traces"][0]]["prompt_id"]
        reader.show(f"/tokens/{quote(variant['id'], safe='')}/{quote(prompt, safe='')}/0")
        clicks = [driver.execute_async_script(_CLICK, at) for at in range(CLICKS)]
    walls, scripts = zip(*clicks, strict=True)
    table.add("first paint, s", statistics.median(paints), most=MOST_SECONDS_TO_PAINT)
    table.add("a click, median, ms", statistics.median(walls), most=MOST_MS_PER_CLICK)
    table.add("a click, worst, ms", max(walls))
    table.add("script of a click, median, ms", statistics.median(scripts))


def main() -> None:
    """Measure, print, and compare with the targets."""
    if len(sys.argv) not in (2, 3):
        sys.exit("python -m tests.benchmarks.report WAREHOUSE [STUDY]: name a warehouse in which the study was run")
    require_chromium()
    warehouse, study = [*sys.argv[1:], "demo"][:2]
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        spent = timed(lambda: made(warehouse, study, path))
        table.add("the report, s", spent["seconds"], most=MOST_SECONDS)
        table.add("the report, processor s", spent["processor"])
        table.add("bytes of the report", path.stat().st_size)
        read(path, table)
    table.print()


if __name__ == "__main__":
    main()
