"""Cache of figures over one state of the tables."""

import functools
from collections.abc import Callable, Iterator
from copy import copy
from itertools import tee

import polars as pl
import vl_convert

from prunescope.pipelines.reporting.charts.publication_size import Specification
from prunescope.pipelines.reporting.charts.registry import Figure


class FigureCache:
    """Figures that are queried and drawn once, on first use.

    Attributes:
        answer: function that returns the rows of a figure's query.
    """

    def __init__(self, ask: Callable[[str], pl.DataFrame]) -> None:
        """Store `ask`, which returns the rows of a SELECT over one unchanging state of the tables; run nothing."""
        self.answer: Callable[[str], pl.DataFrame] = functools.cache(ask)
        self._drawings: dict[str, Iterator[tuple[str, Specification]]] = {}
        self._svgs: dict[str, str] = {}

    def drawings(self, figure: Figure) -> Iterator[tuple[str, Specification]]:
        """Yield title and specification of each drawing, drawn on demand; callers must not modify what they share."""
        if figure.name not in self._drawings:
            (self._drawings[figure.name],) = tee(self._draw(figure), 1)
        # The stored iterator is never advanced, so a copy starts at the first drawing and shares finished ones.
        return copy(self._drawings[figure.name])

    def svg(self, figure: Figure) -> str:
        """Return the first drawing of a figure."""
        if figure.name not in self._svgs:
            _, specification = next(self.drawings(figure))
            self._svgs[figure.name] = vl_convert.vegalite_to_svg(specification)
        return self._svgs[figure.name]

    def _draw(self, figure: Figure) -> Iterator[tuple[str, Specification]]:
        try:
            for drawing in figure.draw_all(self.answer(figure.query)):
                yield drawing.title, drawing.specification
        except Exception:
            # The finished drawings alone would look like the whole figure.
            del self._drawings[figure.name]
            raise
