"""Small reference pictures of every figure, which the tests compare with.

`python -m tests.pipelines.reporting.charts.baseline [FIGURE ...]` redraws those named, or all, on the synthetic frames.
Look at the changes before you commit them.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import vl_convert
from PIL import Image

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import frames

FOLDER = Path(__file__).parent / "baseline"
# The first font comes with the converter, the second with the charts; characters that the first lacks are replaced.
# So pictures do not depend on the machine.
FONTS = {"sans": "Liberation Sans", "monospace": "DejaVu Sans Mono"}
PLAIN = str.maketrans("␣↵⇥‖…", "_/>|.")
SCALE = 0.5


def render(chart: theme.AnyChart) -> bytes:
    """Render the chart as a small PNG, equal on every machine."""
    specification = theme.dressed(chart.to_dict())
    specification["config"]["font"] = FONTS["sans"]
    text = json.dumps(specification, ensure_ascii=False).replace(theme.MONOSPACE, FONTS["monospace"])
    return vl_convert.vegalite_to_png(text.translate(PLAIN), scale=SCALE)


def picture(name: str) -> bytes:
    """Render a figure's first drawing, on the synthetic marts."""
    figure = FIGURES[name]
    return render(next(figure.draw_all(frames.ask(figure.query))).chart)


def difference(one: bytes, other: bytes) -> float:
    """Return the share of visibly different pixels of two pictures; 1 if their sizes differ by more than rounding."""
    first, second = (Image.open(io.BytesIO(png)).convert("RGB") for png in (one, other))
    if max(abs(a - b) for a, b in zip(first.size, second.size, strict=True)) > 1:
        return 1.0
    width, height = map(min, first.size, second.size)
    pixels = [np.asarray(image.crop((0, 0, width, height)), dtype=np.int16) for image in (first, second)]
    return float((np.abs(pixels[0] - pixels[1]).max(axis=2) > 24).mean())


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for chosen in sys.argv[1:] or FIGURES:
        (FOLDER / f"{chosen}.png").write_bytes(picture(chosen))
