"""Pictures of the pages of a report, at 1280 and 390 px, light and dark.

`python -m tests.page_pictures REPORT FOLDER` needs Chromium. The pages are those of the first variant, and of its first
prompt.
"""

import base64
import sys
import time
from pathlib import Path
from urllib.parse import quote

from tests.pipelines.reporting.explorer.browser_page import Reader, chromium, require_chromium

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
TALLEST = 12_000
# Seconds until charts that came into view are drawn.
DRAWING = 1.5


def pages(reader: Reader) -> dict[str, str]:
    """Return the address of one page of each kind."""
    rows = "[...document.querySelectorAll(\"[aria-label='variants'] tbody tr:not(.reference) a\")]"
    variants = [link.partition("/variant/")[2] for link in reader.js(f"return {rows}.map((one) => one.hash)")]
    first = variants[0]
    reader.show(f"/variant/{first}")
    tokens = reader.js("return document.querySelector('a[href^=\"#/tokens/\"]')?.hash.slice(1)")
    prompt = reader.js("return document.querySelector('a[href^=\"#/prompt/\"]')?.hash.slice(1)")
    return {
        "overview": "/",
        "variant": f"/variant/{first}",
        **({"tokens": tokens} if tokens else {}),
        **({"prompt": prompt} if prompt else {}),
        **({"compare": f"/compare/{first}/{variants[1]}"} if len(variants) > 1 else {}),
        "figures": "/figures",
        "figure": "/figures/hierarchy",
        "sql": "/sql",
        "statement": f"/sql/{quote('variants')}",
    }


def whole(reader: Reader, width: int) -> bytes:
    """Return the page from top to bottom as a PNG, after everything that draws when seen was seen."""
    height = reader.js("return document.documentElement.scrollHeight")
    for top in range(0, height, 700):
        reader.js("scrollTo(0, arguments[0])", top)
        time.sleep(DRAWING / 8)
    time.sleep(DRAWING)
    reader.js("scrollTo(0, 0)")
    height = min(TALLEST, reader.js("return document.documentElement.scrollHeight"))
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = {"captureBeyondViewport": True, "clip": clip}
    return base64.b64decode(reader.driver.execute_cdp_cmd("Page.captureScreenshot", shot)["data"])


def main() -> None:
    """Write `<page>-<width>-<scheme>.png` of each page."""
    report, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    require_chromium()
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as driver:
        reader = Reader(driver)
        reader.load(report.as_uri())
        found = pages(reader)
        for scheme in SCHEMES:
            reader.scheme(scheme)
            # A page is built for the width that it is opened at.
            for width in WIDTHS:
                for name, path in found.items():
                    reader.show(path, width)
                    (folder / f"{name}-{width}-{scheme}.png").write_bytes(whole(reader, width))


if __name__ == "__main__":
    main()
