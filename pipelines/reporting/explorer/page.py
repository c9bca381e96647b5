"""The explorer as one HTML page: its scripts, its style, its policy, and the documents inside it.

What the documents say is decided in `documents`; how they look, in `static/`.
"""

import base64
import functools
import gzip
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.charts.html import embedded, hashes, vega_script

# In this order they make one script; each only uses what stands before it, or is called later.
_SCRIPTS = (
    "dom",
    "data",
    "plots",
    "heatmap",
    "table",
    "overview",
    "variant",
    "compare",
    "tokens",
    "figures",
    "sql",
    "main",
)


def render(documents: Mapping[str, Any], live: bool) -> str:
    """The page as a string of HTML, which loads nothing from anywhere but, if `live`, its own server.

    Args:
        documents: `index`, which is shown at once, and the documents that the page carries; a live page needs
            only `index` and asks its server for the rest.
        live: whether a server stands behind the page (`data/<name>.json`, `sql`).
    """
    library, script, style = _vendored("table-core.js"), _script(), _static("style.css")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prunescope.pipelines.reporting.explorer"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    index = dict(documents["index"], live=live)
    return environment.get_template("page.html.j2").render(
        study=label(str(index["study"])),
        policy=policy(live),
        style=Markup(style),  # noqa: S704 - ours
        library=Markup(library),  # noqa: S704 - vendored, with its hash in vendor/package-lock.json
        script=Markup(script),  # noqa: S704 - ours
        index=embedded(index),
        configs=embedded({"light": theme.config(dark=False), "dark": theme.config(dark=True)}),
        documents=[
            ("licences", _packed(_vendored("LICENSES.txt"))),
            ("vega", _packed_vega()),
            *((name, packed(document)) for name, document in documents.items() if name != "index"),
        ],
    )


def policy(live: bool) -> str:
    """The content security policy: only these very scripts and this style, no eval, no network but `live`'s server."""
    scripts = hashes([_vendored("table-core.js"), _script(), vega_script()])
    directives = [
        "default-src 'none'",
        f"script-src {scripts}",
        f"style-src {hashes([_static('style.css')])}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if live else []),
    ]
    return "; ".join(directives)


@functools.cache
def _packed_vega() -> str:
    return _packed(vega_script())


@functools.cache
def _static(name: str) -> str:
    return (resources.files("prunescope.pipelines.reporting.explorer") / "static" / name).read_text(encoding="utf-8")


@functools.cache
def _vendored(name: str) -> str:
    return (resources.files("prunescope.pipelines.reporting.explorer") / "vendor" / name).read_text(encoding="utf-8")


@functools.cache
def _script() -> str:
    parts = "\n".join(_static(f"{name}.js") for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def packed(document: object) -> str:
    """A document as the page carries it."""
    return _packed(json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _packed(text: str) -> str:
    """The text as gzip in base64: a tenth of its size, and no text inside can end or reopen an element."""
    # A lone surrogate has no UTF-8; the time is left out so that the same documents make the same file.
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode()
