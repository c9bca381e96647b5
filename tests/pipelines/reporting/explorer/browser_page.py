"""Headless Chromium on one page of the explorer."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

INSTALL = "apt-get update && apt-get install -y chromium chromium-driver"


def require_chromium() -> None:
    """End a program if no browser is installed: exit code 2 and the command that installs it."""
    if not _is_there():
        sys.stderr.write(f"error: needs Chromium; install it: {INSTALL}\n")
        sys.exit(2)


def _is_there() -> bool:
    return all(map(shutil.which, ("chromium", "chromedriver")))


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Start a browser without a window; skip the test if none is installed."""
    if not _is_there():
        pytest.skip(f"needs Chromium: {INSTALL}")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has no sandbox for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


class Reader:
    """A browser on one page; views are opened by their address, without loading the page again."""

    def __init__(self, driver):
        self.driver = driver

    def load(self, url):
        self.driver.get("about:blank")
        self.driver.get(url)
        self.wait_for_view()

    def show(self, path, width=1280):
        self.width(width)
        self.driver.execute_script(
            "if (location.hash !== arguments[0]) { delete document.querySelector('main').dataset.ready; "
            "location.hash = arguments[0]; }",
            f"#{path}",
        )
        self.wait_for_view()

    def wait_for_view(self):
        self.wait(lambda: self.js("return document.querySelector('main')?.dataset.ready === location.hash"))

    def wait(self, condition):
        WebDriverWait(self.driver, 60, poll_frequency=0.05).until(lambda _: condition())

    def width(self, width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def scheme(self, scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def js(self, script, *values):
        return self.driver.execute_script(script, *values)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector="main"):
        return self.js("return document.querySelector(arguments[0]).innerText", selector)

    def click(self, element):
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def complaints(self):
        return self.driver.get_log("browser")

    def press(self, *keys):
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)
