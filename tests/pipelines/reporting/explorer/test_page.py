"""Tests of the page without a browser: its policy matches its content, and no text escapes its element."""

import base64
import gzip
import hashlib
import html
import json
import re
from importlib import resources

import pytest
import vl_convert

from prunescope.pipelines.reporting.explorer.page import policy, render
from prunescope.pipelines.reporting.explorer.study_documents import OWN_BYTES
from tests.pipelines.reporting.charts import frames
from tests.pipelines.reporting.explorer import sample

VENDOR = resources.files("prunescope.pipelines.reporting.explorer") / "vendor"
WANTED = json.loads((VENDOR / "package.json").read_text(encoding="utf-8"))["dependencies"]


@pytest.fixture(scope="module")
def documents():
    return sample.hostile()


@pytest.fixture(scope="module")
def page(documents):
    return render(documents, live=False)


def scripts(page):
    return re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)


def packed(page):
    return {
        html.unescape(re.search(r'data-name="([^"]*)"', attributes)[1]): gzip.decompress(
            base64.b64decode(text)
        ).decode()
        for attributes, text in scripts(page)
        if "gzip" in attributes
    }


def test_the_policy_allows_exactly_the_pages_scripts_and_style(page):
    stated = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert stated == policy(live=False)
    run = [text for attributes, text in scripts(page) if not attributes] + [packed(page)["vega"]]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in [*run, style]]
    assert sorted(re.findall(r"'sha256-[^']*'", stated)) == sorted(hashes)
    assert "unsafe" not in stated
    assert "connect-src" not in stated


def test_only_a_served_page_may_connect_and_only_to_its_server(documents):
    live = render({"index": documents["index"]}, live=True)
    assert "connect-src 'self'" in policy(live=True)
    assert json.loads(index_of(live))["live"] is True
    assert set(packed(live)) == {"licences", "vega"}


def index_of(page):
    return next(text for attributes, text in scripts(page) if 'id="index"' in attributes)


def test_the_help_defines_the_texts_that_are_compared(page):
    [told] = re.findall(r"<dialog.*?</dialog>", page, re.DOTALL)
    assert {"Forced", "Own text", "Free", "Fork", "First flip", "Loop"} <= set(re.findall(r"<b>(.*?)</b>:", told))


def test_every_document_survives_embedding(page, documents):
    assert json.loads(index_of(page)) == documents["index"] | {"live": False}
    carried = packed(page)
    for name, document in documents.items():
        if name != "index":
            assert json.loads(carried[name]) == document


def test_the_page_itself_fits_its_reserved_size():
    assert len(render({"index": {"study": "s"}}, live=False).encode()) < OWN_BYTES


def test_no_text_opens_or_closes_an_element(page, documents):
    count = len(documents) - 1 + 5  # two documents of the page's own, two of JSON, one script
    assert len(scripts(page)) == len(re.findall("<script", page)) == count
    assert not any(text in page for text in frames.HOSTILE if "<" in text)


def test_equal_documents_give_equal_bytes(page, documents):
    assert render(documents, live=False) == page


def test_a_lone_surrogate_does_not_break_the_page():
    assert json.loads(packed(render({"index": {"study": "\ud800"}, "sql": {"a": "\ud800"}}, live=False))["sql"]) == {
        "a": "?"
    }


def test_nan_and_infinity_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        render({"index": {"study": "s", "kl": float("nan")}}, live=False)


def test_the_vendored_script_matches_the_lock_and_has_its_licence(page):
    lock = json.loads((VENDOR / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert all(lock[f"node_modules/{name}"]["version"] == version for name, version in WANTED.items())
    assert all(entry["integrity"].startswith("sha512-") for path, entry in lock.items() if path)
    licences = packed(page)["licences"]
    assert all(f"{name} {version} " in licences for name, version in WANTED.items())


def test_the_licences_are_those_of_the_vendored_vega():
    assert WANTED["vega"] == vl_convert.get_vega_version()
    assert WANTED["vega-embed"] == vl_convert.get_vega_embed_version()
    assert WANTED["vega-lite"].startswith(f"{vl_convert.get_vegalite_versions()[-1]}.")
