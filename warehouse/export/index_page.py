"""Page of an export: figures, tables and methods section with links to all files; no scripts, no external resources."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from prunescope.pipelines.core.templates import package_templates
from prunescope.warehouse.export.table_cells import RenderedTable

_STYLE = (
    "body{max-width:70em;margin:2em auto;padding:0 1em;font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff}"
    "img{max-width:100%}figure{margin:1em 0}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}"
    "th,td{padding:2px 8px;text-align:left;border-bottom:1px solid #ddd;white-space:nowrap}"
    "pre{white-space:pre-wrap;font:inherit}nav a{margin-right:1em}"
)


def index_page(
    contents: Mapping[str, Mapping[str, Any]], previews: Mapping[str, RenderedTable | None], methods: str
) -> bytes:
    """Return the page.

    `contents` are the manifest's entries by name, `previews` the tables that are typeset (it shows the
    first rows), and `methods` is the methods section in Markdown.
    """
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    # Browsers give pages from a disk no origin, so 'self' alone would block their pictures.
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    template = package_templates("warehouse.export", autoescape=True, trim_blocks=True).get_template("index.html.j2")
    return template.render(policy=policy, style=_STYLE, contents=contents, previews=previews, methods=methods).encode()
