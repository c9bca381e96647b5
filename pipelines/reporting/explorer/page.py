"""HTML page of the explorer: its scripts, style and content security policy, and the documents inside it."""

import base64
import functools
import gzip
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from markupsafe import Markup

from prunescope.pipelines.core.templates import package_templates
from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.charts.html import embedded, page_policy, vega_script

# Concatenated in this order: at load time each uses only the ones before it.
_SCRIPTS = "dom data plots heatmap table prompts overview variant compare tokens figures sql main"


def render(documents: Mapping[str, Any], live: bool) -> str:
    """Return the HTML of the page, which loads nothing from elsewhere, except from its own server if `live`.

    Args:
        documents: `index` and the other documents to embed; a live page needs only `index` and requests the others.
        live: whether a server provides documents and SQL (`data/<name>.json`, `sql`).
    """
    environment = package_templates(
        "pipelines.reporting.explorer", autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    index = documents["index"] | {"live": live}
    return environment.get_template("page.html.j2").render(
        study=label(str(index["study"])),
        policy=policy(live),
        style=Markup(_text("static/style.css")),  # noqa: S704 - ours
        script=Markup(_script()),  # noqa: S704 - ours
        index=embedded(index),
        configs=embedded({"light": theme.config(dark=False), "dark": theme.config(dark=True)}),
        documents=[
            ("licences", _packed(_text("vendor/LICENSES.txt"))),
            ("vega", _packed_vega()),
            *((name, packed(document)) for name, document in documents.items() if name != "index"),
        ],
    )


def policy(live: bool) -> str:
    """Return the content security policy: only the page's scripts and style, no eval, no network but its server."""
    alone = page_policy([_script(), vega_script()], _text("static/style.css"))
    return alone + ("; connect-src 'self'" if live else "")


@functools.cache
def _packed_vega() -> str:
    return _packed(vega_script())


@functools.cache
def _text(path: str) -> str:
    return (resources.files("prunescope.pipelines.reporting.explorer") / path).read_text(encoding="utf-8")


@functools.cache
def _script() -> str:
    parts = "\n".join(_text(f"static/{name}.js") for name in _SCRIPTS.split())
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def packed(document: object) -> str:
    """Return a document as the page embeds it."""
    return _packed(json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _packed(text: str) -> str:
    """Return the text as gzip in base64: a tenth of its size, and safe inside an HTML element."""
    # Lone surrogates have no UTF-8. Without a time, the same documents give the same file.
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode()
