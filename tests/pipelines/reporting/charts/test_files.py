"""Tests that a chart's files have the same bytes every time and the format of their suffix."""

import hashlib
import io
import json
import re
import struct
import subprocess
import sys
import zlib

import altair as alt
import polars as pl
import pytest
import vl_convert
from PIL import Image, ImageChops, ImageStat

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.files import (
    canonical_pdf,
    chart_file,
    chart_files,
    picture,
    preview,
)


def chart(points: int = 5) -> theme.AnyChart:
    """Return a chart with several fonts, opacities and clips, each of which is a resource of the PDF."""
    frame = pl.DataFrame({"x": range(points), "kind": [f"k{index % 3}" for index in range(points)]})
    base = alt.Chart(theme.rows(frame)).encode(x="x:Q", y="x:Q", color="kind:N")
    marks = [base.mark_point(opacity=0.1 * level, filled=True, size=40 * level) for level in range(1, 8)]
    words = base.mark_text(font="monospace", fontWeight="bold").encode(text="kind:N", opacity="x:Q")
    return theme.themed(alt.layer(*marks, words, title=theme.title("‖Δh‖ ≤ ½", "ß")))


def test_every_file_has_the_format_of_its_suffix() -> None:
    files = chart_files(chart().to_dict())
    assert set(files) == {".vl.json", ".svg", ".png"}
    assert json.loads(files[".vl.json"])["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
    assert files[".svg"].startswith(b"<svg")
    width, height = struct.unpack(">II", files[".png"][16:24])
    assert files[".png"].startswith(b"\x89PNG")
    assert min(width, height) > 300


def test_a_preview_shrinks_to_the_limit_and_at_most_to_half() -> None:
    def width(most_bytes: int) -> int:
        return struct.unpack(">I", preview(svg, most_bytes)[16:20])[0]

    svg = vl_convert.vegalite_to_svg(chart().to_dict())
    whole = preview(svg, 10**9)
    assert whole == vl_convert.vegalite_to_png(chart().to_dict())
    assert width(len(whole)) == width(10**9)
    assert width(len(whole) - 1) == pytest.approx(0.75 * width(10**9), abs=1)
    assert width(1) == pytest.approx(0.5 * width(10**9), abs=1)


def test_a_picture_has_the_width_and_is_cut_below_its_tallest() -> None:
    svg = vl_convert.vegalite_to_svg(chart().to_dict())
    whole, cut = (Image.open(io.BytesIO(picture(svg, 200, tallest))) for tallest in (10.0, 0.25))
    assert whole.format == "JPEG"
    assert whole.width == cut.width == 200
    assert cut.height == 50 < whole.height
    # The part that is left is drawn at the same scale.
    upper = whole.crop((0, 0, 200, 40))
    difference = ImageChops.difference(upper.convert("L"), cut.crop((0, 0, 200, 40)).convert("L"))
    assert max(ImageStat.Stat(difference).mean) < 4


def test_the_pdf_embeds_fonts_and_has_no_date() -> None:
    pdf = chart_file(chart().to_dict(), "pdf")
    assert pdf.startswith(b"%PDF-1.")
    descriptors = re.findall(rb"/Type /FontDescriptor.*?>>", pdf, re.DOTALL)
    assert descriptors
    assert all(b"/FontFile" in descriptor for descriptor in descriptors)
    assert b"Date" not in pdf


def hashes() -> dict[str, str]:
    files = chart_files(chart().to_dict()) | {".pdf": chart_file(chart().to_dict(), "pdf")}
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@pytest.mark.exhaustive  # the test below shows what differed between drawings
def test_two_processes_write_the_same_bytes() -> None:
    code = "from tests.pipelines.reporting.charts.test_files import hashes; print(hashes())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert other.strip() == str(hashes())


def test_a_canonical_pdf_keeps_every_object_at_its_listed_offset() -> None:
    written = {vl_convert.vegalite_to_pdf(chart().to_dict()) for _ in range(6)}
    assert len(written) > 1, "the converter orders by itself now; canonical_pdf can go"
    [pdf] = {canonical_pdf(one) for one in written}
    [original] = [next(iter(written))]
    assert canonical_pdf(pdf) == pdf
    assert sorted(streams(pdf)) == sorted(streams(original))
    start = int(re.search(rb"startxref\n(\d+)", pdf)[1])
    count = int(re.match(rb"xref\n0 (\d+)", pdf[start:])[1])
    offsets = [int(offset) for offset in re.findall(rb"^(\d{10}) 00000 n", pdf[start:], re.MULTILINE)]
    assert len(offsets) == count - 1
    for number, offset in enumerate(offsets, start=1):
        assert pdf[offset:].startswith(b"%d 0 obj\n" % number)
    assert {int(one) for one in re.findall(rb"(\d+) 0 R", b"".join(heads(pdf)))} <= set(range(1, count))


def test_unsupported_pdf_files_are_refused() -> None:
    for wrong in (b"", b"%PDF-1.7\n", b"%PDF-1.7\nxref\n0 1\ntrailer\n<< >>\nstartxref\n5\n%%EOF"):
        with pytest.raises(ValueError, match="this PDF has no plain"):
            canonical_pdf(wrong)


def streams(pdf: bytes) -> list[bytes]:
    found = re.findall(rb"\nstream\n(.*?)\nendstream", pdf, re.DOTALL)
    # Compressed streams are compared by what is in them.
    return [zlib.decompress(one) if one[:1] == b"x" else one for one in found]


def heads(pdf: bytes) -> list[bytes]:
    return [one.partition(b"stream\n")[0] for one in re.findall(rb"\d+ 0 obj\n.*?endobj", pdf, re.DOTALL)]
