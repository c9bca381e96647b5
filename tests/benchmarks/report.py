"""Seconds to make and to read a study's report: `python -m tests.benchmarks.report WAREHOUSE [STUDY]`.

Needs Chromium; prints JSON and fails where a target is missed. A click is measured in the page, from the event to the
second frame after it, when its change is on the screen; `script` is the part of our own code.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.publishing.explorer_data import documents
from prunescope.pipelines.reporting.explorer.page import render
from tests.pipelines.reporting.explorer.browser_page import Reader, chromium, require_chromium

TARGETS = {"report_wall_s": 20.0, "first_paint_s": 1.0, "click_median_ms": 100.0}
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


def made(warehouse: str, study: str, path: Path) -> dict[str, float]:
    """Write the report of a study as the asset does; return the seconds."""
    place = WarehouseResource(root=warehouse)
    store = place.store()
    wall, processor = time.perf_counter(), time.process_time()
    chosen = StudyResource(study=study).request(store).load()
    with place.only(chosen) as seen:
        page = render(documents(chosen, seen.connection, seen.ask).within(), live=False)
    path.write_text(page, encoding="utf-8")
    return {"report_wall_s": time.perf_counter() - wall, "report_processor_s": time.process_time() - processor}


def read(path: Path) -> dict[str, float]:
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
    return {
        "first_paint_s": statistics.median(paints),
        "click_median_ms": statistics.median(walls),
        "click_worst_ms": max(walls),
        "click_script_median_ms": statistics.median(scripts),
        "click_script_worst_ms": max(scripts),
    }


def main() -> None:
    """Measure, print, and compare with the targets."""
    if len(sys.argv) not in (2, 3):
        sys.exit("python -m tests.benchmarks.report WAREHOUSE [STUDY]: name a warehouse in which the study was run")
    require_chromium()
    warehouse, study = [*sys.argv[1:], "demo"][:2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        found = made(warehouse, study, path) | {"report_bytes": path.stat().st_size} | read(path)
    missed = [f"{name} is above {most}" for name, most in TARGETS.items() if found[name] > most]
    sys.stdout.write(json.dumps({"measured": found, "targets": TARGETS, "missed": missed}, indent=2) + "\n")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
