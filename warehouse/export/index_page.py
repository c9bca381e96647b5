"""Page of an export: figures, tables and methods section with links to all files; no scripts, no external resources."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from prunescope.warehouse.export.table_cells import RenderedTable, plain_text

# Maximum rows of a table on the page; the table's files have all.
SHOWN_ROWS = 20
_STYLE = (
    "body{max-width:70em;margin:2em auto;padding:0 1em;font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff}"
    "img{max-width:100%}figure{margin:1em 0}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}"
    "th,td{padding:2px 8px;text-align:left;border-bottom:1px solid #ddd;white-space:nowrap}"
    "pre{white-space:pre-wrap;font:inherit}nav a{margin-right:1em}"
)


def table_preview(table: RenderedTable) -> str:
    """Return the first rows of a table as HTML."""
    body = "\n".join(_row("td", map(plain_text, cells)) for cells in table.rows[:SHOWN_ROWS])
    return f'<div class="wide"><table>\n{_row("th", table.headings)}\n{body}\n</table></div>'


def index_page(contents: Mapping[str, Mapping[str, Any]], previews: Mapping[str, str], methods: str) -> bytes:
    """Return the page of the manifest's entries, with `table_preview`s by name and the methods in Markdown."""
    figures = [name for name, entry in contents.items() if entry["kind"] == "figure" and entry["files"]]
    tables = [name for name, entry in contents.items() if entry["kind"] != "figure" and entry["files"]]
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    # Browsers give pages from a disk no origin, so 'self' alone would block their pictures.
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    lines = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Export of Prunescope</title>\n<style>{_STYLE}</style>",
        "<h1>Export of Prunescope</h1>",
        '<nav><a href="#figures">Figures</a><a href="#tables">Tables</a><a href="#methods">Methods</a>'
        f"{_links(['manifest.json', 'references.bib'])}</nav>",
        '<h2 id="figures">Figures</h2>',
        *(line for name in figures for line in _figure(name, contents[name])),
        '<h2 id="tables">Tables</h2>',
        *(line for name in tables for line in _table(name, contents[name], previews.get(name, ""))),
        '<h2 id="methods">Methods</h2>',
        f"<p>{_links(['methods.md', 'methods.tex'])}</p>\n<pre>{escape(methods)}</pre>\n",
    ]
    return "\n".join(lines).encode()


def _figure(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h3>{escape(name)}</h3>\n<p>{escape(entry['caption'])}</p>"
    for file in entry["files"]:
        if file.endswith(".png"):
            stem = file.removesuffix(".png")
            own = [one for one in entry["files"] if one.startswith((f"{stem}.", f"{stem}-column", f"{stem}-page"))]
            yield f'<figure><img src="{quote(file)}" alt="{escape(stem)}" loading="lazy"></figure>'
            yield f"<p>{_links(own)}</p>"


def _table(name: str, entry: Mapping[str, Any], preview: str) -> Iterator[str]:
    yield f"<h3>{escape(name)}</h3>\n<p>{escape(entry['caption'])}</p>"
    if preview:
        yield preview
    shown = min(entry["rows"], SHOWN_ROWS) if preview else 0
    yield f"<p>{shown} of {entry['rows']:,} rows · {_links(entry['files'])}</p>"


def _links(files: Sequence[str]) -> str:
    return " ".join(f'<a href="{quote(file)}">{escape(file)}</a>' for file in files)


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
