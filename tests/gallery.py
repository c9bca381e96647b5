"""The gallery of figures, redrawn by `make gallery` from the warehouse that the command line would read.

`python -m tests.gallery [FIGURE,FIGURE=]WAREHOUSE ...` draws each figure from the first of several that has its data;
one behind figures is used for these alone. It writes NAME.png into `pipelines/reporting/charts/gallery`, the first
chart of every figure that has data, and the page with titles and captions; other pictures stay. Look at the pictures
before you commit them. The kept ones: `speed,temperature,calibration,quantization=` the warehouse of `variations`,
`drops=` of `paper-small`, `rescue=` of `causes`, `search,allocation=` of a search, then that of `demo`.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import vl_convert
from PIL import Image

from prunescope.assets.instance import settings
from prunescope.pipelines.reporting.charts.publication_size import Specification
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.warehouse.catalogue.database import connect
from prunescope.warehouse.core.formats import markdown_escaped

FOLDER = Path(__file__).parents[1] / "pipelines" / "reporting" / "charts" / "gallery"
PAGE = FOLDER / "README.md"


def page(drawn: dict[str, Figure], without_data: dict[str, Figure]) -> str:
    """Return the list of figures as Markdown."""
    parts = [
        "# Figures",
        "Made by `make gallery`; each picture is the first chart of its figure. `prunescope figure NAME -o FILE` draws "
        "one from your warehouse (`--columns 1` or `2` for a paper, `--dark` for a screen, `--recipe`, `--model`, "
        "`--prompt` to choose), `prunescope export DIR` writes all. In a notebook, `import prunescope as ps`, then "
        "`ps.figure(NAME)`.",
    ]
    for name, figure in drawn.items():
        title = markdown_escaped(figure.title)
        parts += [f"## `{name}`: {title}", f"![{title}]({name}.png)", markdown_escaped(figure.caption)]
    if without_data:
        parts.append("## Without data in the warehouses of this page")
        parts += [f"**`{name}`**: {markdown_escaped(each.title)}. {markdown_escaped(each.caption)}"
                  for name, each in without_data.items()]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def main(places: Sequence[str]) -> None:
    """Draw the figures and write the page."""
    drawn: dict[str, bytes] = {}
    for names, root in map(_asked, places or [""]):
        with connect(settings.warehouse_root(root or None)) as connection:
            for name in names:
                frame = pl.DataFrame(connection.sql(FIGURES[name].query).to_arrow_table())
                if name not in drawn and frame.height:
                    drawn[name] = picture(next(FIGURES[name].draw_all(frame)).specification)
    if not drawn:
        sys.exit(
            f"no figure has data in {', '.join(places) or 'the warehouse'}; run a study there, such as `make demo`"
        )
    for name, content in drawn.items():
        (FOLDER / f"{name}.png").write_bytes(content)
    kept = {old.stem for old in FOLDER.glob("*.png")}
    for name in kept - FIGURES.keys():
        (FOLDER / f"{name}.png").unlink()
    parts = ({name: FIGURES[name] for name in FIGURES if (name in kept) is is_kept} for is_kept in (True, False))
    PAGE.write_text(page(*parts))


def _asked(place: str) -> tuple[list[str], str]:
    """Return the figures to be drawn from a warehouse, and its path, which may contain a =."""
    names, _, root = place.partition("=")
    chosen = names.split(",")
    return (chosen, root) if set(chosen) <= set(FIGURES) else (list(FIGURES), place)


def picture(specification: Specification) -> bytes:
    """Return the chart as a small PNG."""
    picture = Image.open(io.BytesIO(vl_convert.vegalite_to_png(specification, scale=1.2)))
    small = io.BytesIO()
    # A repository keeps every version of a picture; fewer colours would lose those of small marks.
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:])
