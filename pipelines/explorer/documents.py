"""All documents of a study by name: for a file everything within a budget, for a server one at a time.

How the page shows them, and what answers the SQL, is the business of others.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import polars as pl

from pipelines.charts.registry import FIGURES
from pipelines.explorer.frames import Ask, Frames
from pipelines.explorer.index import figure_entry, index, prompt_rows, variant_names
from pipelines.explorer.shapes import Fact, FigureDocument, Index, Statement
from pipelines.explorer.statements import STATEMENTS
from pipelines.explorer.traces import trace
from pipelines.explorer.variants import variant

# What the token documents of a file may take once they are packed and written as text; charts and script come on top.
TRACE_BYTES = 8_000_000
_Row = TypeVar("_Row")
_READS = re.compile(r"\b(?:from|join)\s+([a-z_][a-z0-9_]*)")


class Documents:
    """The documents of one study."""

    def __init__(
        self,
        ask: Ask,
        study: str,
        title: str = "",
        facts: Sequence[Fact] = (),
        views: Mapping[str, str] | None = None,
        *,
        is_live: bool = False,
    ) -> None:
        """Keeps what documents are made of; nothing is asked yet.

        Args:
            ask: the rows of a SELECT, as if the warehouse held this study alone.
            study: its name.
            title: its title.
            facts: what a reader needs to repeat it.
            views: SQL of the views by name, which the statements read.
            is_live: documents are built one by one from what is there now, each asking for its own rows only; else
                every statement is asked once for all documents, and kept.
        """
        self._kept = None if is_live else Frames(ask, is_whole=True)
        self._ask = ask
        self._study, self._title, self._facts = study, title, facts
        self._views = dict(views or {})
        self._is_live = is_live

    def _frames(self) -> Frames:
        """Of a server, what is there now; nothing is kept from one document to the next."""
        return self._kept or Frames(self._ask, is_whole=False)

    def names(self) -> list[str]:
        """All documents that `build` knows, `index` first."""
        frames = self._frames()
        variants = [f"variant/{n}" for n, _ in enumerate(variant_names(frames))]
        traces = [f"trace/{n}/{m}" for m, n in _traces(frames)]
        return ["index", "sql", *(f"figures/{name}" for name in FIGURES), *variants, *traces]

    def build(self, name: str) -> Mapping[str, Any]:
        """One document.

        Raises:
            KeyError: there is none of that name.
        """
        frames = self._frames()
        match name.split("/"):
            case ["index"]:
                return self._index(frames, _traces(frames))
            case ["sql"]:
                return self._sql()
            case ["figures", figure] if figure in FIGURES:
                return self._figure(figure, self._ask(FIGURES[figure].query))
            case ["variant", n] if (names := _at(variant_names(frames), n)) is not None:
                model, recipe = names
                mine = {
                    prompt["prompt_id"]: m for m, prompt in enumerate(prompt_rows(frames)) if prompt["model"] == model
                }
                return variant(frames, model, recipe, mine)
            case ["trace", n, m] if (names := _at(variant_names(frames), n)) is not None:
                model, recipe = names
                prompt = _at(prompt_rows(frames), m)
                if prompt is not None and prompt["model"] == model and recipe != "dense":
                    return trace(frames, model, recipe, prompt["prompt_id"])
        raise KeyError(name)

    def within(self, trace_bytes: int = TRACE_BYTES) -> dict[str, Mapping[str, Any]]:
        """The documents of a file: all but the traces that the budget has no room for.

        Traces come prompt by prompt, each of every variant, in the order of the index; the first that has no room ends
        them, so that what is there does not depend on the sizes of single ones.

        Args:
            trace_bytes: what they may take, packed and as base64.
        """
        frames = self._frames()
        found: dict[str, Mapping[str, Any]] = {"index": {}, "sql": self._sql()}
        answered = {name: self._ask(figure.query) for name, figure in FIGURES.items()}
        without_data = [name for name, frame in answered.items() if frame.is_empty()]
        found |= {f"figures/{name}": self._figure(name, frame) for name, frame in answered.items()}
        found |= {name: self.build(name) for n, _ in enumerate(variant_names(frames)) for name in [f"variant/{n}"]}
        wanted = _traces(frames)
        kept: list[tuple[int, int]] = []
        for m, n in wanted:
            document = self.build(f"trace/{n}/{m}")
            trace_bytes -= _packed(document)
            if trace_bytes < 0:
                break
            kept.append((m, n))
            found[f"trace/{n}/{m}"] = document
        found["index"] = self._index(frames, kept, len(wanted) - len(kept), without_data)
        return found

    def _index(
        self,
        frames: Frames,
        traces: Sequence[tuple[int, int]],
        left_out: int = 0,
        without_data: Sequence[str] = (),
    ) -> Index:
        names = variant_names(frames)
        here: dict[tuple[str, str], list[int]] = {}
        for m, n in traces:
            here.setdefault(names[n], []).append(m)
        notes = []
        if left_out:
            notes.append(
                f"{left_out} of {left_out + len(traces)} token views are not in this file, to keep it small: it has "
                "those of the first prompts of every variant. `prunescope serve` shows them all."
            )
        return index(frames, self._study, self._title, self._facts, notes, here, without_data, is_live=self._is_live)

    def _sql(self) -> dict[str, Statement]:
        told: dict[str, Statement] = {
            key: {
                "title": query.title,
                "sql": query.sql,
                "views": self._reads(query.sql),
                "narrow": list(query.narrow),
            }
            for key, query in STATEMENTS.items()
        }
        for name, figure in FIGURES.items():
            told[f"figures/{name}"] = {
                "title": figure.title,
                "sql": figure.query,
                "views": self._reads(figure.query),
                "narrow": [],
            }
        for name, sql in self._views.items():
            told[f"view/{name}"] = {
                "title": f"View {name}: {sql.strip().splitlines()[0].removeprefix('--').strip()}",
                "sql": sql,
                "views": self._reads(sql),
                "narrow": [],
            }
        return told

    def _reads(self, sql: str) -> list[str]:
        names = dict.fromkeys(_READS.findall(re.sub(r"--[^\n]*", "", sql)))
        return [f"view/{name}" for name in names if name in self._views]

    def _figure(self, name: str, frame: pl.DataFrame) -> FigureDocument:
        figure = FIGURES[name]
        drawings = []
        for drawing in figure.draw_all(frame):
            # Valid by their tests; checking each again takes longer than drawing.
            spec = drawing.chart.to_dict(validate=False)
            # The page lays on the colours of a light or a dark screen.
            spec.pop("config", None)
            drawings.append({"title": drawing.title, "spec": spec})
        return cast("FigureDocument", {**figure_entry(figure), "drawings": drawings})


def _traces(frames: Frames) -> list[tuple[int, int]]:
    """Prompt and variant of every text of a pruned variant, by their positions."""
    variants = {names: n for n, names in enumerate(variant_names(frames))}
    prompts = {(row["model"], row["prompt_id"]): m for m, row in enumerate(prompt_rows(frames))}
    return sorted(
        (prompts[model, prompt_id], variants[model, recipe])
        for model, recipe, prompt_id in frames.all("written").iter_rows()
        if (model, recipe) in variants
    )


def _at(rows: Sequence[_Row], position: str) -> _Row | None:
    """A row by its position in decimal digits, as the names of documents have it."""
    is_number = position.isdecimal() and position.isascii() and len(position) < 10
    return rows[int(position)] if is_number and int(position) < len(rows) else None


def _packed(document: Mapping[str, Any]) -> int:
    """Bytes that a document takes in the file: packed, and four characters for every three bytes."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return len(zlib.compress(text.encode(), 6)) * 4 // 3
