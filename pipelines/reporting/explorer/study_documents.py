"""All documents of a study by name: for a file everything within a budget, for a server one at a time.

How the page shows them, and what answers the SQL, is the business of others.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeVar, cast

from prunescope.pipelines.reporting.charts.figure_cache import FigureCache
from prunescope.pipelines.reporting.charts.html import embedded
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.pipelines.reporting.explorer.comparisons import AT_ONCE, MOST_PAIRS, Pairs, nearest, paired, turns
from prunescope.pipelines.reporting.explorer.comparisons import TITLES as PAIR_TITLES
from prunescope.pipelines.reporting.explorer.document_types import Fact, FigureDocument, Index, PairDocument, Statement
from prunescope.pipelines.reporting.explorer.index_document import (
    StudySummary,
    figure_entry,
    index,
    prompt_rows,
    variant_names,
)
from prunescope.pipelines.reporting.explorer.ordering import DisplayOrder
from prunescope.pipelines.reporting.explorer.page import packed
from prunescope.pipelines.reporting.explorer.queries import STATEMENTS
from prunescope.pipelines.reporting.explorer.query_cache import Ask, QueryCache
from prunescope.pipelines.reporting.explorer.trace_document import trace
from prunescope.pipelines.reporting.explorer.variant_document import variant

# A file, and of it what the page's own scripts, Vega and licences may take.
FILE_BYTES, OWN_BYTES = 15_000_000, 700_000
ROOM = FILE_BYTES - OWN_BYTES
_NOTES_BYTES, _ELEMENT_BYTES = 2_000, 100
# Of the room that is left, for pairs of variants: a reader looks at texts more often.
_PAIRS_SHARE = 0.25
# Lists of the index, which a file carries as text; of longer ones the first entries, up to so many bytes.
_LISTS = ("variants", "prompts", "answers", "claims", "findings", "facts")
_LIST_BYTES = 1_500_000
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
        order: DisplayOrder | None = None,
        pairs: Pairs | None = None,
        drawn: FigureCache | None = None,
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
            order: in which models, recipes and prompts stand; what it does not name comes last, by name.
            pairs: who compares two variants; nobody where None.
            drawn: the study's figures, where somebody keeps them.
            is_live: documents are built one by one from what is there now, each asking for its own rows only; else
                every statement is asked once for all documents, and kept.
        """
        self._order = order or DisplayOrder()
        self._kept = None if is_live else QueryCache(ask, is_whole=True)
        self._drawn = drawn or (FigureCache(self._kept.answer) if self._kept else None)
        self._ask = ask
        self._study, self._title, self._facts = study, title, facts
        self._views, self._pairs = dict(views or {}), pairs
        self._is_live = is_live

    def _frames(self) -> QueryCache:
        """Of a server, what is there now; nothing is kept from one document to the next."""
        return self._kept or QueryCache(self._ask, is_whole=False)

    def _figures(self, frames: QueryCache) -> FigureCache:
        return self._drawn or FigureCache(frames.answer)

    def _variants(self, frames: QueryCache) -> list[tuple[str, str]]:
        return variant_names(frames, self._order)

    def _prompts(self, frames: QueryCache) -> list[dict[str, Any]]:
        return prompt_rows(frames, self._order)

    def names(self) -> list[str]:
        """All documents that `build` knows, `index` first."""
        frames = self._frames()
        names = self._variants(frames)
        variants = [f"variant/{n}" for n, _ in enumerate(names)]
        traces = [f"trace/{n}/{m}" for m, n in self._traces(frames)]
        pairs = [
            f"pair/{n}/{m}" for n, m in combinations(range(len(names)), 2) if self._pairs and names[n][0] == names[m][0]
        ]
        return ["index", "sql", "turns", *(f"figures/{name}" for name in FIGURES), *variants, *pairs, *traces]

    def build(self, name: str) -> Mapping[str, Any]:
        """One document.

        Raises:
            KeyError: there is none of that name.
        """
        frames = self._frames()
        match name.split("/"):
            case ["index"]:
                return self._index(frames, self._traces(frames))
            case ["sql" | "turns" as one]:
                return (
                    self._sql()
                    if one == "sql"
                    else turns(self._figures(frames).answer(STATEMENTS["turns"].sql), self._variants(frames))
                )
            case ["figures", figure] if figure in FIGURES:
                return _figure(FIGURES[figure], self._figures(frames))
            case ["variant", n] if (names := _at(self._variants(frames), n)) is not None:
                model, recipe = names
                mine = {
                    prompt["prompt_id"]: m for m, prompt in enumerate(self._prompts(frames)) if prompt["model"] == model
                }
                return variant(frames, model, recipe, mine)
            case ["pair", n, m] if self._pairs is not None:
                a, b = (_at(self._variants(frames), position) for position in (n, m))
                if a is not None and b is not None and a[0] == b[0] and int(n) < int(m):
                    return paired(self._pairs, a[0], [(a[1], b[1])])[0]
            case ["trace", n, m] if (names := _at(self._variants(frames), n)) is not None:
                model, recipe = names
                prompt = _at(self._prompts(frames), m)
                if prompt is not None and prompt["model"] == model and recipe != "dense":
                    return trace(frames, model, recipe, prompt["prompt_id"])
        raise KeyError(name)

    def within(self, room: int = ROOM) -> dict[str, Mapping[str, Any]]:
        """The documents of a file: all that it has room for, and an index that says what is left out.

        The index comes first, cut where even its lists are too long. Then variants and figures, the counts of right
        answers of every two variants, paired comparisons of variants, those that stand near each other first, then
        traces prompt by prompt, each of every variant. The first of a kind that has no room ends this kind, so that
        what is there does not depend on the sizes of single ones.

        Args:
            room: what they may take, packed and as base64, with the index as text.
        """
        frames = self._frames()
        found: dict[str, Mapping[str, Any]] = {"index": {}, "sql": self._sql()}
        drawn = self._figures(frames)
        without_data = [name for name, figure in FIGURES.items() if drawn.answer(figure.query).is_empty()]
        wanted = self._traces(frames)
        whole = self._index(frames, wanted, without_data)
        cut = _cut(whole)
        count = len(cut["variants"])
        left_out = [
            f"{len(whole[kind]) - len(cut[kind])} of {len(whole[kind])} {kind}"  # type: ignore[literal-required]
            for kind in _LISTS
            if len(cut[kind]) < len(whole[kind])  # type: ignore[literal-required]
        ]
        room -= len(embedded(cut)) + _NOTES_BYTES + _size(found["sql"])

        def add(kind: str, names: Sequence[str], build: Callable[[str], Mapping[str, Any]], share: float = 1.0) -> None:
            nonlocal room
            rest = room * (1 - share)
            for at, name in enumerate(names):
                document = build(name)
                if (size := _size(document)) > room - rest:
                    left_out.append(f"{len(names) - at} of {len(names)} {kind}" if len(names) > 1 else kind)
                    return
                room -= size
                found[name] = document

        add("pages of variants", [f"variant/{n}" for n in range(count)], self.build)
        add("figures", [f"figures/{name}" for name in FIGURES], self.build)
        add("the counts of right answers of every two variants", ["turns"], self.build)
        if self._pairs is not None:
            near = nearest(_kls(cut), MOST_PAIRS)
            compared = _compared(self._pairs, self._variants(frames), near)
            add("paired comparisons", [f"pair/{n}/{m}" for n, m in near], lambda _: next(compared), share=_PAIRS_SHARE)
            if len(near) == MOST_PAIRS:
                left_out.append("paired comparisons of variants far from each other by median KL")
        # What the reader could not find in the index is not carried.
        carried = [f"trace/{n}/{m}" for m, n in wanted if n < count and m < len(cut["prompts"])]
        add("token views", carried, self.build)
        for n, entry in enumerate(cut["variants"]):
            entry["traces"] = [m for m in entry["traces"] if f"trace/{n}/{m}" in found]
        if left_out:
            cut["notes"] = [
                f"Not in this file, which has at most {FILE_BYTES // 1_000_000} MB: {'; '.join(left_out)}. "
                "`prunescope serve` shows all of it."
            ]
        found["index"] = cut
        return found

    def _index(self, frames: QueryCache, traces: Sequence[tuple[int, int]], without_data: Sequence[str] = ()) -> Index:
        names = self._variants(frames)
        here: dict[tuple[str, str], list[int]] = {}
        for m, n in traces:
            here.setdefault(names[n], []).append(m)
        told = StudySummary(self._study, self._title, self._facts, self._order)
        return index(frames, told, here, without_data, is_live=self._is_live)

    def _traces(self, frames: QueryCache) -> list[tuple[int, int]]:
        """Prompt and variant of every text of a pruned variant, by their positions."""
        variants = {names: n for n, names in enumerate(self._variants(frames))}
        prompts = {(row["model"], row["prompt_id"]): m for m, row in enumerate(self._prompts(frames))}
        return sorted(
            (prompts[model, prompt_id], variants[model, recipe])
            for model, recipe, prompt_id in frames.all("written").iter_rows()
            if (model, recipe) in variants
        )

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
        for key, sql in self._pairs.sql.items() if self._pairs is not None else ():
            told[key] = {"title": PAIR_TITLES[key], "sql": sql, "views": self._reads(sql), "narrow": []}
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


def _figure(figure: Figure, drawn: FigureCache) -> FigureDocument:
    # The page lays on the colours of a light or a dark screen.
    drawings = [
        {"title": title, "spec": {name: part for name, part in specification.items() if name != "config"}}
        for title, specification in drawn.drawings(figure)
    ]
    return cast("FigureDocument", {**figure_entry(figure), "drawings": drawings})


def _compared(
    pairs: Pairs, variants: Sequence[tuple[str, str]], wanted: Sequence[tuple[int, int]]
) -> Iterator[PairDocument]:
    """The documents of some pairs of variants, many compared at once and no more than a reader takes."""
    for start in range(0, len(wanted), AT_ONCE):
        together = wanted[start : start + AT_ONCE]
        found: dict[tuple[int, int], PairDocument] = {}
        for model in dict.fromkeys(variants[n][0] for n, _ in together):
            own = [(n, m) for n, m in together if variants[n][0] == model]
            found |= zip(own, paired(pairs, model, [(variants[n][1], variants[m][1]) for n, m in own]), strict=True)
        yield from (found[pair] for pair in together)


def _at(rows: Sequence[_Row], position: str) -> _Row | None:
    """A row by its position in decimal digits, as the names of documents have it."""
    is_number = position.isdecimal() and position.isascii() and len(position) < 10
    return rows[int(position)] if is_number and int(position) < len(rows) else None


def _size(document: Mapping[str, Any]) -> int:
    """Bytes that a document takes in the file, with the element around it."""
    return len(packed(document)) + _ELEMENT_BYTES


def _cut(whole: Index) -> Index:
    """The index with no list longer than `_LIST_BYTES`: the first entries of each, so that positions stay."""
    cut = whole.copy()
    for name in _LISTS:
        room = _LIST_BYTES
        kept = []
        for entry in whole[name]:  # type: ignore[literal-required]
            room -= len(embedded(entry)) + 1
            if room < 0:
                break
            kept.append(entry)
        cut[name] = kept  # type: ignore[literal-required]
    return cut


def _kls(cut: Index) -> list[tuple[str, float | None]]:
    """Model and median KL of every variant; nothing of the dense ones."""
    return [
        (
            entry["where"]["model"],
            None if entry["is_dense"] else entry["numbers"].get("kl_teacher_forced_median_nats"),
        )
        for entry in cut["variants"]
    ]
