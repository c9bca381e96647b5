"""Documents of a study by name: for a file all that fit into its size, for a server one at a time."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from prunescope.pipelines.reporting.charts.figure_cache import FigureCache
from prunescope.pipelines.reporting.charts.files import picture
from prunescope.pipelines.reporting.charts.html import embedded
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.pipelines.reporting.explorer.comparisons import (
    BATCH_SIZE,
    MAX_PAIRS,
    Compare,
    nearest,
    paired,
    statements,
)
from prunescope.pipelines.reporting.explorer.index_document import figure_entry, index, variant_names
from prunescope.pipelines.reporting.explorer.ordering import DisplayOrder
from prunescope.pipelines.reporting.explorer.page import packed
from prunescope.pipelines.reporting.explorer.queries import PROMPT, STATEMENTS, Query
from prunescope.pipelines.reporting.explorer.query_cache import Ask, Document, QueryCache, model_name
from prunescope.pipelines.reporting.explorer.variant_document import prompt as prompt_document
from prunescope.pipelines.reporting.explorer.variant_document import trace, variant

# Maximum size of a file, and the part of it for the page's own scripts, Vega and licences.
FILE_BYTES, OWN_BYTES = 15_000_000, 700_000
DOCUMENT_BYTES = FILE_BYTES - OWN_BYTES
_NOTES_BYTES, _ELEMENT_BYTES = 2_000, 100
# Maximum share of the remaining size for pairs, because readers open texts more often.
_PAIRS_SHARE = 0.25
# Width in pixels of a figure's picture, and its maximum ratio of height to width.
_PICTURE_WIDTH, _PICTURE_TALLEST = 440, 0.6
# Number of token views that share one query each for their tokens and layers.
TRACE_BATCH_SIZE = 96
_RELATION = re.compile(r"\b(?:from|join)\s+([a-z_][a-z0-9_]*)")


def document_name(kind: str, *ids: str) -> str:
    """Return the name of a document: its kind and ids, escaped as JavaScript's `encodeURIComponent` does."""
    return "/".join([kind, *(quote(each, safe="!'()*") for each in ids)])


class Documents:
    """Documents of one study: `index`, `sql`, and by id figures, variants, prompts of a model, pairs and traces."""

    def __init__(
        self,
        ask: Ask,
        study: str,
        title: str = "",
        facts: Sequence[Document] = (),
        views: Mapping[str, str] | None = None,
        order: DisplayOrder | None = None,
        compare: Compare | None = None,
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
            compare: source of comparisons; without it there are no pairs.
            drawn: cache of the study's figures, if the caller has one.
            is_live: whether each document queries the current rows that it needs; otherwise every statement runs once
                for all documents.
        """
        self._study, self._title, self._facts = study, title, facts
        self._order = order or DisplayOrder()
        self._cache = None if is_live else QueryCache(ask, is_whole=True)
        self._drawn = drawn or (FigureCache(self._cache.answer) if self._cache else None)
        self._ask = ask
        self._views, self._compare = dict(views or {}), compare

    def _frames(self) -> QueryCache:
        """Return the shared cache, or a new one for each document of a live page."""
        return self._cache or QueryCache(self._ask, is_whole=False)

    def build(self, name: str) -> Document:
        """Build one document.

        Raises:
            KeyError: there is no document of that name.
        """
        frames = self._frames()
        variants = self._variants(frames)
        match [unquote(part) for part in name.split("/")]:
            case ["index" | "sql"]:
                return self._sql() if name == "sql" else self._index(frames, self._by_break(frames))
            case ["figures" | "pictures" as kind, figure] if figure in FIGURES:
                build = _figure if kind == "figures" else _picture
                return build(FIGURES[figure], self._drawn or FigureCache(frames.answer))
            case ["variant", one] if one in variants:
                return variant(frames, *variants[one], self._order)
            case ["pair", a, b] if self._compare is not None and a in variants and b in variants:
                (model, recipe_a), (model_b, recipe_b) = variants[a], variants[b]
                if model == model_b and a != b:
                    return paired(self._compare, model, [(recipe_a, recipe_b)])[0]
            case ["prompt", shown, prompt]:
                recipes = [pair for pair in variants.values() if model_name(pair[0]) == shown]
                return prompt_document(frames, prompt, recipes)
            case ["trace", one, prompt] if one in variants and variants[one][1] != "dense":
                return trace(frames, *variants[one], prompt)
        raise KeyError(name)

    def _variants(self, frames: QueryCache) -> dict[str, tuple[str, str]]:
        return {"@".join(pair): pair for pair in variant_names(frames, self._order)}

    def within(self, size: int = DOCUMENT_BYTES) -> dict[str, Document]:
        """Build the documents of a file: all that fit, and an index that says what is left out.

        The index is always whole. Then come variants, figures, prompts in the order in which they break, paired
        comparisons by increasing distance, and traces in the order of `_by_break`. A kind ends at its first document
        that does not fit, so that the choice does not depend on the sizes of later ones.

        Args:
            size: limit in bytes; the index is kept even if it alone is larger. It counts as text, the other documents
                as packed in base64.
        """
        frames = self._frames()
        documents: dict[str, Document] = {"sql": self._sql()}
        figures = self._drawn or FigureCache(frames.answer)
        without_data = [name for name, figure in FIGURES.items() if figures.answer(figure.query).is_empty()]
        traces = self._by_break(frames)
        documents["index"] = whole = self._index(frames, traces, without_data)
        left_out: list[str] = []
        remaining = size - len(embedded(whole)) - _NOTES_BYTES - _size(documents["sql"])

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

        variants = {entry["id"]: entry for entry in whole["variants"]}
        add("pages of variants", [document_name("variant", id_) for id_ in variants], self.build)
        add("pictures of figures", [f"pictures/{name}" for name in FIGURES], self.build)
        add("figures", [f"figures/{name}" for name in FIGURES], self.build)
        asked = sorted(whole["prompts"], key=lambda entry: entry["place_in_order"])
        names = [document_name("prompt", entry["model"], entry["prompt_id"]) for entry in asked]
        add("pages of prompts", names, self.build)
        if self._compare is not None:
            kl = "kl_teacher_forced_median_nats"
            kls = [
                (entry["where"]["model"], None if entry["is_dense"] else entry["numbers"].get(kl))
                for entry in variants.values()
            ]
            pairs = nearest(kls, MAX_PAIRS)
            compared = _compared(self._compare, variant_names(frames, self._order), pairs)
            ids = list(variants)
            names = [document_name("pair", ids[n], ids[m]) for n, m in pairs]
            add("paired comparisons", names, lambda _: next(compared), share=_PAIRS_SHARE)
            if len(pairs) == MAX_PAIRS:
                left_out.append("paired comparisons of variants far from each other by median KL")
        built = self._built(frames, traces)
        names = [document_name("trace", *ids) for ids in traces]
        add("token views", names, lambda _: next(built))
        for id_, entry in variants.items():
            entry["traces"] = [each for each in entry["traces"] if document_name("trace", id_, each) in documents]
        if not documents.keys() >= set(names):
            left_out[-1] += " (those of each variant and kind of prompt that break last)"
        if left_out:
            whole["notes"] = [
                f"Left out to keep this file below {FILE_BYTES // 1_000_000} MB: {'; '.join(left_out)}. "
                "`prunescope serve` shows all."
            ]
        return documents

    def _index(
        self, frames: QueryCache, traces: Sequence[tuple[str, str]], without_data: Sequence[str] = ()
    ) -> Document:
        return index(frames, self._study, self._title, self._facts, self._order, traces, without_data)

    def _by_break(self, frames: QueryCache) -> list[tuple[str, str]]:
        """Return variant and prompt of every text by a pruned variant, in the order in which a file takes them.

        Each round has one text per variant and kind of prompt, the text that breaks first in the first round. The first
        round also has each variant's first text with layers, whose document is ten times as large.
        """
        layered = set(frames.all("prompts").filter("has_layers").select("model", "prompt_id").iter_rows())
        has_layered = set[str]()
        rounds = []
        for row in frames.all("written").iter_rows(named=True):
            model, recipe, prompt_id = (row[name] for name in PROMPT)
            variant_id, number = f"{model}@{recipe}", row["place_in_kind"]
            if (model, prompt_id) in layered and variant_id not in has_layered:
                has_layered.add(variant_id)
                number = 1
            place = self._order.of_prompt(model, prompt_id), self._order.of_variant(model, recipe)
            rounds.append((number, place, variant_id, prompt_id))
        return [(variant_id, prompt_id) for *_, variant_id, prompt_id in sorted(rounds)]

    def _built(self, frames: QueryCache, traces: Sequence[tuple[str, str]]) -> Iterator[Document]:
        """Yield the documents of traces, queried batch by batch, because a full file takes no more of them."""
        variants = self._variants(frames)
        texts = [(*variants[variant_id], prompt_id) for variant_id, prompt_id in traces]
        for start in range(0, len(texts), TRACE_BATCH_SIZE):
            batch = texts[start : start + TRACE_BATCH_SIZE]
            frames.focus(batch)
            yield from (trace(frames, *text) for text in batch)
        frames.focus(())

    def _sql(self) -> dict[str, Document]:
        known = {
            **STATEMENTS,
            **(statements() if self._compare is not None else {}),
            **{f"figures/{name}": Query(figure.title, figure.query) for name, figure in FIGURES.items()},
        }
        for name, sql in self._views.items():
            comment = sql.strip().splitlines()[0].removeprefix("--").strip()
            known[f"view/{name}"] = Query(f"View {name}: {comment}", sql)
        found = {}
        for key, query in known.items():
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
    compare: Compare, variants: Sequence[tuple[str, str]], positions: Sequence[tuple[int, int]]
) -> Iterator[Document]:
    """Yield the documents of pairs of variants, computed batch by batch, because a full file takes no more of them."""
    for start in range(0, len(positions), BATCH_SIZE):
        batch = positions[start : start + BATCH_SIZE]
        documents: dict[tuple[int, int], Document] = {}
        for model in dict.fromkeys(variants[n][0] for n, _ in batch):
            own = [(n, m) for n, m in batch if variants[n][0] == model]
            documents |= zip(
                own, paired(compare, model, [(variants[n][1], variants[m][1]) for n, m in own]), strict=True
            )
        yield from (documents[pair] for pair in batch)


def _size(document: Document) -> int:
    """Return the bytes of a document in the file, with its HTML element."""
    return len(packed(document)) + _ELEMENT_BYTES
