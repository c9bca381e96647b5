"""Documents of a study by name: for a file all that fit into its size, for a server one at a time."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from prunescope.pipelines.reporting.charts.figure_cache import FigureCache
from prunescope.pipelines.reporting.charts.files import picture
from prunescope.pipelines.reporting.charts.html import embedded
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.pipelines.reporting.explorer.comparisons import (
    BATCH_SIZE,
    MAX_PAIRS,
    Pairs,
    nearest,
    paired,
)
from prunescope.pipelines.reporting.explorer.comparisons import TITLES as PAIR_TITLES
from prunescope.pipelines.reporting.explorer.index_document import figure_entry, index, prompt_rows, variant_names
from prunescope.pipelines.reporting.explorer.ordering import DisplayOrder
from prunescope.pipelines.reporting.explorer.page import packed
from prunescope.pipelines.reporting.explorer.queries import STATEMENTS, Query
from prunescope.pipelines.reporting.explorer.query_cache import Ask, Document, QueryCache
from prunescope.pipelines.reporting.explorer.trace_document import trace
from prunescope.pipelines.reporting.explorer.variant_document import prompt as prompt_document
from prunescope.pipelines.reporting.explorer.variant_document import variant

# Maximum size of a file, and the part of it for the page's own scripts, Vega and licences.
FILE_BYTES, OWN_BYTES = 15_000_000, 700_000
DOCUMENT_BYTES = FILE_BYTES - OWN_BYTES
_NOTES_BYTES, _ELEMENT_BYTES = 2_000, 100
# Maximum share of the remaining size for pairs, because readers open texts more often.
_PAIRS_SHARE = 0.25
# Width in pixels of a figure's picture, and its maximum ratio of height to width.
_PICTURE_WIDTH, _PICTURE_TALLEST = 440, 0.6
# Lists of the index, which are embedded as text; each is cut at _LIST_BYTES.
_LISTS = ("variants", "prompts", "answers", "claims", "findings", "searches", "facts")
_LIST_BYTES = 1_500_000
# Number of token views that share one query each for their tokens and layers.
TRACE_BATCH_SIZE = 96
_Row = TypeVar("_Row")
_RELATION = re.compile(r"\b(?:from|join)\s+([a-z_][a-z0-9_]*)")


class Documents:
    """Documents of one study."""

    def __init__(
        self,
        ask: Ask,
        study: str,
        title: str = "",
        facts: Sequence[Document] = (),
        views: Mapping[str, str] | None = None,
        order: DisplayOrder | None = None,
        pairs: Pairs | None = None,
        drawn: FigureCache | None = None,
        *,
        is_live: bool = False,
    ) -> None:
        """Store the sources of the documents; run no query.

        Args:
            ask: function that returns the rows of a SELECT over this study only.
            study: name of the study.
            title: title of the study.
            facts: what a reader needs to repeat the study.
            views: SQL of the views that the statements read, by name.
            order: display order; other names come last, by name.
            pairs: source of comparisons; without it there are no pairs.
            drawn: cache of the study's figures, if the caller has one.
            is_live: whether each document queries the current rows that it needs; otherwise every statement runs once
                for all documents.
        """
        self._study, self._title, self._facts = study, title, facts
        self._order = order or DisplayOrder()
        self._cache = None if is_live else QueryCache(ask, is_whole=True)
        self._drawn = drawn or (FigureCache(self._cache.answer) if self._cache else None)
        self._ask = ask
        self._views, self._pairs = dict(views or {}), pairs
        self._is_live = is_live

    def _frames(self) -> QueryCache:
        """Return the shared cache, or a new one for each document of a live page."""
        return self._cache or QueryCache(self._ask, is_whole=False)

    def build(self, name: str) -> Document:
        """Build one document.

        Raises:
            KeyError: there is no document of that name.
        """
        frames = self._frames()
        match name.split("/"):
            case ["index" | "sql"]:
                return self._sql() if name == "sql" else self._index(frames, self._by_break(frames))
            case ["figures" | "pictures" as kind, figure] if figure in FIGURES:
                build = _figure if kind == "figures" else _picture
                return build(FIGURES[figure], self._drawn or FigureCache(frames.answer))
            case ["variant", n] if (names := _at(variant_names(frames, self._order), n)) is not None:
                model, recipe = names
                prompts = enumerate(prompt_rows(frames, self._order))
                positions = {prompt["prompt_id"]: m for m, prompt in prompts if prompt["model"] == model}
                return variant(frames, model, recipe, positions)
            case ["pair", n, m] if self._pairs is not None:
                a, b = (_at(variant_names(frames, self._order), position) for position in (n, m))
                if a is not None and b is not None and a[0] == b[0] and int(n) < int(m):
                    return paired(self._pairs, a[0], [(a[1], b[1])])[0]
            case ["prompt", m] if row := _at(prompt_rows(frames, self._order), m):
                places = enumerate(variant_names(frames, self._order))
                own = {recipe: n for n, (model, recipe) in places if model == row["model"]}
                return prompt_document(frames, row, int(m), own)
            case ["trace", n, m] if row := _at(prompt_rows(frames, self._order), m):
                names = _at(variant_names(frames, self._order), n)
                if names is not None and names[0] == row["model"] and names[1] != "dense":
                    return trace(frames, *names, row["prompt_id"])
        raise KeyError(name)

    def within(self, size: int = DOCUMENT_BYTES) -> dict[str, Document]:
        """Build the documents of a file: all that fit, and an index that says what is left out.

        The index comes first, with its lists cut if they are too long. Then come variants, figures, prompts in the
        order in which they break, paired comparisons by increasing distance, and traces in the order of `_by_break`. A
        kind ends at its first document that does not fit, so that the choice does not depend on the sizes of later
        ones.

        Args:
            size: maximum number of bytes, with the index as text and the other documents packed in base64.
        """
        frames = self._frames()
        documents: dict[str, Document] = {"index": {}, "sql": self._sql()}
        figures = self._drawn or FigureCache(frames.answer)
        without_data = [name for name, figure in FIGURES.items() if figures.answer(figure.query).is_empty()]
        traces = self._by_break(frames)
        whole = self._index(frames, traces, without_data)
        cut = _cut(whole)
        left_out = [
            f"{len(whole[kind]) - len(cut[kind])} of {len(whole[kind])} {kind}"
            for kind in _LISTS
            if len(cut[kind]) < len(whole[kind])
        ]
        remaining = size - len(embedded(cut)) - _NOTES_BYTES - _size(documents["sql"])

        def add(kind: str, names: Sequence[str], build: Callable[[str], Document], share: float = 1.0) -> None:
            nonlocal remaining
            reserved = remaining * (1 - share)
            for position, name in enumerate(names):
                document = build(name)
                if (document_size := _size(document)) > remaining - reserved:
                    left_out.append(f"{len(names) - position} of {len(names)} {kind}" if len(names) > 1 else kind)
                    return
                remaining -= document_size
                documents[name] = document

        # The index cuts variants and prompts separately. A page of one kind leaves out what was cut from the other.
        count = len(cut["variants"])
        lists = (("texts", "variant", count), ("prompts", "prompt", len(cut["prompts"])))

        def listed(name: str) -> Document:
            document = {**self.build(name)}
            for key, place, length in lists:
                if key in document:
                    document[key] = [each for each in document[key] if each[place] < length]
            return document

        add("pages of variants", [f"variant/{n}" for n in range(count)], listed)
        add("pictures of figures", [f"pictures/{name}" for name in FIGURES], self.build)
        add("figures", [f"figures/{name}" for name in FIGURES], self.build)
        prompts = sorted(enumerate(cut["prompts"]), key=lambda entry: entry[1]["place_in_order"])
        add("pages of prompts", [f"prompt/{m}" for m, _ in prompts], listed)
        if self._pairs is not None:
            kl = "kl_teacher_forced_median_nats"
            kls = [
                (entry["where"]["model"], None if entry["is_dense"] else entry["numbers"].get(kl))
                for entry in cut["variants"]
            ]
            pairs = nearest(kls, MAX_PAIRS)
            compared = _compared(self._pairs, variant_names(frames, self._order), pairs)
            add("paired comparisons", [f"pair/{n}/{m}" for n, m in pairs], lambda _: next(compared), share=_PAIRS_SHARE)
            if len(pairs) == MAX_PAIRS:
                left_out.append("paired comparisons of variants far from each other by median KL")
        # Only the index links to traces, so variants and prompts that were cut from it have none.
        reachable = [(m, n) for m, n in traces if n < count and m < len(cut["prompts"])]
        built = self._built(frames, reachable)
        add("token views", [f"trace/{n}/{m}" for m, n in reachable], lambda _: next(built))
        for n, entry in enumerate(cut["variants"]):
            entry["traces"] = [m for m in entry["traces"] if f"trace/{n}/{m}" in documents]
        if any(f"trace/{n}/{m}" not in documents for m, n in reachable):
            left_out[-1] += " (those of each variant and kind of prompt that break last)"
        if left_out:
            cut["notes"] = [
                f"Not in this file, which has at most {FILE_BYTES // 1_000_000} MB: {'; '.join(left_out)}. "
                "`prunescope serve` shows all."
            ]
        documents["index"] = cut
        return documents

    def _index(
        self, frames: QueryCache, traces: Sequence[tuple[int, int]], without_data: Sequence[str] = ()
    ) -> Document:
        names = variant_names(frames, self._order)
        prompts: dict[tuple[str, str], list[int]] = {}
        for m, n in traces:
            prompts.setdefault(names[n], []).append(m)
        return index(
            frames, self._study, self._title, self._facts, self._order, prompts, without_data, is_live=self._is_live
        )

    def _by_break(self, frames: QueryCache) -> list[tuple[int, int]]:
        """Return the positions of prompt and variant of every text by a pruned variant, as a file takes them.

        Each round has one text per variant and kind of prompt, the text that breaks first in the first round. The first
        round also has each variant's first text with layers, whose document is ten times as large.
        """
        variants = {names: n for n, names in enumerate(variant_names(frames, self._order))}
        prompts = {(row["model"], row["prompt_id"]): (m, row) for m, row in enumerate(prompt_rows(frames, self._order))}
        rounds: list[tuple[int, int, int]] = []
        has_layered: set[int] = set()
        for row in frames.all("written").iter_rows(named=True):
            if (n := variants.get((row["model"], row["recipe"]))) is None:
                continue
            m, prompt = prompts[row["model"], row["prompt_id"]]
            is_first_layered = prompt["has_layers"] and n not in has_layered
            if is_first_layered:
                has_layered.add(n)
            rounds.append((1 if is_first_layered else row["place_in_kind"], m, n))
        return [(m, n) for _, m, n in sorted(rounds)]

    def _built(self, frames: QueryCache, traces: Sequence[tuple[int, int]]) -> Iterator[Document]:
        """Yield the documents of traces, queried batch by batch, because a full file takes no more of them."""
        variants, prompts = variant_names(frames, self._order), prompt_rows(frames, self._order)
        texts = [(*variants[n], prompts[m]["prompt_id"]) for m, n in traces]
        for start in range(0, len(texts), TRACE_BATCH_SIZE):
            batch = texts[start : start + TRACE_BATCH_SIZE]
            frames.focus(batch)
            yield from (trace(frames, *text) for text in batch)
        frames.focus(())

    def _sql(self) -> dict[str, Document]:
        pairs = self._pairs.sql if self._pairs is not None else {}
        statements = {
            **STATEMENTS,
            **{key: Query(PAIR_TITLES[key], sql) for key, sql in pairs.items()},
            **{f"figures/{name}": Query(figure.title, figure.query) for name, figure in FIGURES.items()},
        }
        for name, sql in self._views.items():
            comment = sql.strip().splitlines()[0].removeprefix("--").strip()
            statements[f"view/{name}"] = Query(f"View {name}: {comment}", sql)

        found = {}
        for key, query in statements.items():
            names = dict.fromkeys(_RELATION.findall(re.sub(r"--[^\n]*", "", query.sql)))
            views = [f"view/{name}" for name in names if name in self._views]
            found[key] = {"title": query.title, "sql": query.sql, "views": views, "narrow": list(query.narrow)}
        return found


def _figure(figure: Figure, drawn: FigureCache) -> Document:
    entry = figure_entry(figure)
    drawings = []
    for title, specification in drawn.drawings(figure):
        # The page adds the config of the light or the dark theme, and has the figure's title as its heading.
        spec = {name: part for name, part in specification.items() if name not in {"config", "title"}}
        if subtitle := specification["title"]["subtitle"]:
            spec["title"] = {"text": subtitle, "fontSize": 12, "fontWeight": "normal"}
        spec["description"] = f"{title}. {entry['alt']}"  # Vega passes it to screen readers
        drawings.append({"title": title, "spec": _shortened(spec)})
    return entry | {"drawings": drawings}


def _picture(figure: Figure, drawn: FigureCache) -> Document:
    if drawn.answer(figure.query).is_empty():
        return {"jpeg": None}
    jpeg = picture(drawn.svg(figure), _PICTURE_WIDTH, _PICTURE_TALLEST)
    return {"jpeg": base64.b64encode(jpeg).decode()}


def _shortened(value: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return JSON with 5 significant digits per number, more than a drawing shows; it saves 40 % of the bytes."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    return [_shortened(item) for item in value] if isinstance(value, list) else value


def _compared(
    pairs: Pairs, variants: Sequence[tuple[str, str]], positions: Sequence[tuple[int, int]]
) -> Iterator[Document]:
    """Yield the documents of pairs of variants, computed batch by batch, because a full file takes no more of them."""
    for start in range(0, len(positions), BATCH_SIZE):
        batch = positions[start : start + BATCH_SIZE]
        documents: dict[tuple[int, int], Document] = {}
        for model in dict.fromkeys(variants[n][0] for n, _ in batch):
            own = [(n, m) for n, m in batch if variants[n][0] == model]
            documents |= zip(own, paired(pairs, model, [(variants[n][1], variants[m][1]) for n, m in own]), strict=True)
        yield from (documents[pair] for pair in batch)


def _at(rows: Sequence[_Row], position: str) -> _Row | None:
    """Return the row at a position given in decimal digits, as in a document's name; None if there is none."""
    is_number = position.isdecimal() and position.isascii() and len(position) < 10
    return rows[int(position)] if is_number and int(position) < len(rows) else None


def _size(document: Document) -> int:
    """Return the bytes of a document in the file, with its HTML element."""
    return len(packed(document)) + _ELEMENT_BYTES


def _cut(whole: Document) -> Document:
    """Return the index with each list cut after the first entries that fit into `_LIST_BYTES`."""
    cut = whole.copy()
    for name in _LISTS:
        entries = whole[name]
        ends = accumulate(len(embedded(entry)) + 1 for entry in entries)
        cut[name] = [entry for entry, end in zip(entries, ends, strict=True) if end <= _LIST_BYTES]
    shown = {entry["id"] for entry in cut["variants"]}
    cut["curves"] = [curve for curve in whole["curves"] if curve["id"] in shown]
    return cut
