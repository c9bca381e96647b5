"""Tests that the page of the gallery has the titles and captions of the registry, and shows existing pictures."""

import re

from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests import gallery


def test_the_page_shows_exactly_the_registered_figures():
    text = gallery.PAGE.read_text()
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert sorted(shown) == sorted(path.name for path in gallery.FOLDER.glob("*.png"))
    assert set(re.findall(r"^(?:## |\*\*)`(\w+)`", text, re.MULTILINE)) == set(FIGURES), "run `make gallery`"
    pictured = {name: FIGURES[name] for name in FIGURES if f"{name}.png" in shown}
    assert text == gallery.page(pictured, {name: FIGURES[name] for name in FIGURES if name not in pictured})


def test_pictures_of_the_gallery_are_small():
    assert all(path.stat().st_size < 200_000 for path in gallery.FOLDER.glob("*.png"))
