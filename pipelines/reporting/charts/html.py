"""Chart as an HTML page, and the parts of any page with charts: the Vega script, JSON inside HTML, CSP hashes."""

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources

from markupsafe import Markup, escape

from prunescope.pipelines.reporting.charts.publication_size import Specification

_DRAW = """\
const specification = JSON.parse(document.getElementById("specification").textContent);
vegaEmbed("#chart", specification, {
  renderer: "svg",
  actions: {export: true, source: false, compiled: false, editor: false},
  ast: true, // interpret expressions: the policy forbids eval
  defaultStyle: false, // only this page's style applies
  tooltip: {disableDefaultStyle: true},
});
"""
_STYLE = """\
body { margin: 12px; background: %s; font: 14px system-ui, sans-serif; color: #808080; }
.vega-actions a { margin-right: 12px; color: #808080; }
#vg-tooltip-element { visibility: hidden; position: fixed; padding: 8px; background: white; color: #222222; }
#vg-tooltip-element { border: 1px solid #808080; font-size: 12px; max-width: 420px; overflow-wrap: anywhere; }
#vg-tooltip-element.visible { visibility: visible; }
"""


@functools.cache
def vega_script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, stored because vl-convert takes seconds to bundle it."""
    return (resources.files("prunescope.pipelines.reporting.charts") / "vendor" / "vega.js").read_text(encoding="utf-8")


def embedded(document: object) -> Markup:
    """Return a document as JSON for a script element; escaping `<`, `>` and `&` keeps any text from closing it."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def page_policy(scripts: Sequence[str], style: str) -> str:
    """Return the content security policy of a page: only these scripts and this style, no eval, no network."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (*scripts, style))
    *of_scripts, of_style = (f"'sha256-{digest}'" for digest in digests)
    sources = f"script-src {' '.join(of_scripts)}; style-src {of_style}; img-src data:"
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def chart_page(specification: Specification, title: str) -> bytes:
    """Return a chart, with its config, as a page that loads nothing from elsewhere and runs no code from its texts."""
    style = _STYLE % specification["config"]["background"]
    policy = page_policy([vega_script(), _DRAW], style)
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{style}</style>",
        '<div id="chart"></div>',
        f'<script type="application/json" id="specification">{embedded(specification)}</script>',
        f"<script>{vega_script()}</script>\n<script>{_DRAW}</script>\n",
    ]
    return "\n".join(parts).encode()
