"""Figures over one state of the tables: each is asked for and drawn once, whoever wants it first.

What becomes of the drawings belongs to the caller.
"""

from collections.abc import Callable, Iterator
from copy import copy
from itertools import tee

import polars as pl

from prunescope.pipelines.reporting.charts.publication_size import Specification
from prunescope.pipelines.reporting.charts.registry import Figure


class FigureCache:
    """Figures as they are wanted, kept until nobody holds this any more."""

    def __init__(self, ask: Callable[[str], pl.DataFrame]) -> None:
        """Keeps who answers; nothing is asked yet.

        Args:
            ask: the rows of a SELECT, always of the same state.
        """
        self._ask = ask
        self._answers: dict[str, pl.DataFrame] = {}
        self._drawings: dict[str, Iterator[tuple[str, Specification]]] = {}

    def answer(self, query: str) -> pl.DataFrame:
        """The rows of a figure's query."""
        if query not in self._answers:
            self._answers[query] = self._ask(query)
        return self._answers[query]

    def drawings(self, figure: Figure) -> Iterator[tuple[str, Specification]]:
        """Title and specification of each drawing, drawn when it is reached; not to be changed, for others read it."""
        if figure.name not in self._drawings:
            (self._drawings[figure.name],) = tee(self._made(figure), 1)
        # A copy of one that nobody reads from begins at the first drawing and shares those that were made.
        return copy(self._drawings[figure.name])

    def _made(self, figure: Figure) -> Iterator[tuple[str, Specification]]:
        try:
            for drawing in figure.draw_all(self.answer(figure.query)):
                yield drawing.title, drawing.specification
        except Exception:
            # What was made before would pass for all of it.
            del self._drawings[figure.name]
            raise
