"""Pictures of the running interface for the README: `python -m tests.screenshots WAREHOUSE`, with Chromium installed.

It starts `prunescope ui` on a copy of a warehouse in which `demo` was computed, opens pages as a user does, adds a
model, changes a parameter, and writes `assets/publishing/interface/screenshots/*.png`.
"""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from prunescope.assets.defs.recipe_asset import RECIPE, latest_versions
from prunescope.assets.instance.instance import open_instance
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.publishing.interface.browser_interface import free_port, started
from tests.assets.tiny_study import ROOT, prunescope
from tests.pipelines.reporting.explorer.browser_page import chromium, require_chromium
from tests.tiny_models import save_tiny

FOLDER = ROOT / "assets" / "publishing" / "interface" / "screenshots"
WIDTH, PATIENCE = 1400, 600.0
NEW, CHANGED = "night-llama", "wanda-50"
# A picture must not depend on the path of the warehouse.
_ANYWHERE = """
const [place] = arguments;
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(place, "warehouse/data");
"""


def take(
    window: webdriver.Chrome, address: str, name: str, shows: str, height: int = 900, click: str = "", point: str = ""
) -> None:
    """Open a page, wait until it shows a text, click on another one, point at one, and save the picture."""
    window.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    window.get(address)
    wait = WebDriverWait(window, PATIENCE)
    wait.until(lambda page: shows in page.find_element(By.TAG_NAME, "body").text)
    if click:
        wait.until(lambda page: page.find_elements(By.XPATH, f"//*[contains(text(), '{click}')]"))[0].click()
    if point:
        found = wait.until(lambda page: page.find_elements(By.XPATH, f"//*[contains(text(), '{point}')]"))
        ActionChains(window).move_to_element(found[0]).perform()
    time.sleep(3)  # pictures and lines are drawn after the texts
    window.execute_script(_ANYWHERE, str(Path(sys.argv[1]).resolve()))
    window.save_screenshot(FOLDER / f"{name}.png")


def change(study: Path, warehouse: Path) -> int:
    """Change a parameter, wait until it is published, and lock the warehouse, so that nothing is recomputed yet."""
    with open_instance(warehouse) as instance:
        before = latest_versions(instance, RECIPE).get(CHANGED)
        text = study.read_text()
        study.write_text(text.replace(f"{CHANGED}, ", f"{{name: {CHANGED}, method: wanda, sparsity: 0.6}}, "))
        while latest_versions(instance, RECIPE).get(CHANGED) == before:
            time.sleep(0.2)
    held = os.open(warehouse / "_lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    return held


def main() -> None:
    """Take all pictures."""
    require_chromium()
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        warehouse = shutil.copytree(Path(sys.argv[1]).resolve(), folder / "warehouse")
        study = Path(shutil.copy(ROOT / "pipelines" / "studies" / "demo.yaml", folder / "my-study.yaml"))
        prunescope("watch", study, "--warehouse", warehouse, cwd=folder, environment={}).check_returncode()
        [*_, variant] = Store(warehouse).partitions(TABLES["layer_transitions"])
        report = folder / "report.html"
        prunescope("report", "demo", "-o", report, "--warehouse", warehouse, cwd=folder, environment={})
        os.environ["PRUNESCOPE_WATCH_SECONDS"] = "10"
        with started(warehouse, free_port()) as (interface, _), chromium() as window:
            address = interface.address
            token = f"#/tokens/{quote(f'{variant.model}@{CHANGED}', safe='')}/open/4"
            take(window, report.as_uri() + token, "token", "Most likely, dense", 1150)
            take(window, f"{address}/asset-groups", "lineage", "questions", 680)
            page = f"{address}/assets/layer_transitions?view=partitions&partition="
            chosen = quote(f"{variant.model}|{variant.recipe}")
            take(window, page + chosen, "partition", "made from", 1150, "Hide navigation")

            made = save_tiny(folder / NEW, num_hidden_layers=8, max_position_embeddings=512)
            shutil.copytree(made, warehouse / "_models" / NEW)
            runs = f"{address}/runs?q%5B0%5D=" + quote("tag:prunescope/watched=due")
            take(window, runs, "dropped", "Success", 420)

            held = change(study, warehouse)
            page = f"{address}/assets/layer_transitions?view=partitions&partition=" + quote(
                f"{variant.model}|{CHANGED}"
            )
            take(window, page, "stale", "Unsynced", 520, point="Unsynced")
            os.close(held)


if __name__ == "__main__":
    main()
