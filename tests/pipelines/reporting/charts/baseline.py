"""Small reference pictures of every figure, which the tests compare with.

`python -m tests.pipelines.reporting.charts.baseline [FIGURE ...]` redraws those named, or all, on the synthetic frames.
Look at the changes before you commit them.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import vl_convert
from PIL import Image

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.publication_size import Specification
from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import frames

FOLDER = Path(__file__).parent / "baseline"
INK = "ink.json"
_INTO = "--into"
SCALE = 0.5
_TEXT = re.compile(r'(<text [^>]*font-family="([^"]*)"[^>]*>)(.*?)(</text>)', re.DOTALL)
_NO_FONTS = '<?xml version="1.0"?><fontconfig><dir>/nonexistent</dir></fontconfig>'


def drawn(name: str) -> Specification:
    """Return a figure's first drawing, on the synthetic marts."""
    figure = FIGURES[name]
    return next(figure.draw_all(frames.ask(figure.query))).specification


def render(specification: Specification) -> bytes:
    """Render the chart as a small PNG."""
    return vl_convert.vegalite_to_png(theme.dressed(specification), scale=SCALE)


def ink(specification: Specification) -> dict[str, float]:
    """Return the pixels per character that the texts of each font change in a chart."""
    svg = vl_convert.vegalite_to_svg(theme.dressed(specification))
    whole = _pixels(vl_convert.svg_to_png(svg))
    texts: dict[str, str] = {}
    for _, font, text, _ in _TEXT.findall(svg):
        texts[font] = texts.get(font, "") + re.sub(r"<[^>]*>|&\w+;|\s", "", text)
    return {
        font: float((np.abs(whole - _pixels(vl_convert.svg_to_png(_without(svg, font)))) > 24).any(axis=2).sum())
        / len(text)
        for font, text in texts.items()
        if text
    }


def _without(svg: str, font: str) -> str:
    return _TEXT.sub(lambda match: match[1] + match[4] if match[2] == font else match[0], svg)


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int16)


def difference(one: bytes, other: bytes) -> float:
    """Return the share of visibly different pixels of two pictures; 1 if their sizes differ by more than rounding."""
    first, second = _pixels(one), _pixels(other)
    if max(abs(a - b) for a, b in zip(first.shape, second.shape, strict=True)) > 1:
        return 1.0
    height, width, _ = map(min, first.shape, second.shape)
    return float((np.abs(first[:height, :width] - second[:height, :width]).max(axis=2) > 24).mean())


def draw_without_fonts(names: Iterable[str], folder: Path) -> dict[str, dict[str, float]]:
    """Draw figures into a folder in a process that sees no font of the system; return `ink` of each."""
    fonts = folder / "fonts.conf"
    fonts.write_text(_NO_FONTS)
    command = [sys.executable, "-m", "tests.pipelines.reporting.charts.baseline", _INTO, str(folder), *names]
    subprocess.run(command, check=True, env={**os.environ, "FONTCONFIG_FILE": str(fonts)})
    return json.loads((folder / INK).read_text())


def _draw(names: Iterable[str], folder: Path) -> None:
    inks = {}
    for name in names:
        specification = drawn(name)
        (folder / f"{name}.png").write_bytes(render(specification))
        inks[name] = ink(specification)
    (folder / INK).write_text(json.dumps(inks))


if __name__ == "__main__":
    if sys.argv[1:2] == [_INTO]:
        _draw(sys.argv[3:], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            draw_without_fonts(sys.argv[1:] or FIGURES, Path(temporary))
            for picture in Path(temporary).glob("*.png"):
                shutil.copy(picture, FOLDER)
