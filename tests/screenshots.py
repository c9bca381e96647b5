"""Pictures of the running interface for the README: `python -m tests.screenshots WAREHOUSE`, with Chromium installed.

It starts `prunescope ui` on the warehouse, opens pages as a person would, and writes `assets/screenshots/*.png`.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.assets.tiny_study import COMMAND, ROOT
from warehouse.store import Store
from warehouse.tables import TABLES

FOLDER = ROOT / "assets" / "screenshots"
WIDTH, PATIENCE = 1400, 300.0


@contextmanager
def interface(warehouse: Path) -> Iterator[str]:
    """The address of the interface while it runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*COMMAND, "ui", "--port", str(port), "--warehouse", str(warehouse)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(1)
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A window of Chromium without a screen."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        sys.exit("needs Chromium: apt-get update && apt-get install -y chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has no sandbox for root
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


def take(window: webdriver.Chrome, address: str, name: str, shows: str, height: int = 900, click: str = "") -> None:
    """Opens a page, waits until it shows a text, clicks on another one, and keeps the picture."""
    window.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    window.get(address)
    wait = WebDriverWait(window, PATIENCE)
    wait.until(lambda page: shows in page.find_element(By.TAG_NAME, "body").text)
    if click:
        wait.until(lambda page: page.find_elements(By.XPATH, f"//*[contains(text(), '{click}')]"))[0].click()
    time.sleep(3)  # pictures and lines are drawn after the texts
    window.save_screenshot(FOLDER / f"{name}.png")


def main() -> None:
    """All pictures."""
    warehouse = Path(sys.argv[1]).resolve()
    [*_, variant] = Store(warehouse).partitions(TABLES["layer_transitions"])
    partition = quote(f"{variant.model}|{variant.recipe}")
    FOLDER.mkdir(exist_ok=True)
    with interface(warehouse) as address, browser() as window:
        take(window, f"{address}/asset-groups", "lineage", "questions", 680)
        page = f"{address}/assets/layer_transitions?view=partitions&partition={partition}"
        take(window, page, "partition", "made from", 1150, "Hide navigation")


if __name__ == "__main__":
    main()
