"""Objects that a notebook displays as HTML: variants, answers, texts with shaded tokens, and figures.

The objects hold the rows that they show; the public functions are in `prunescope.assets.api`.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from prunescope.warehouse.core.formats import shown_cell

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

_MAX_ROWS = 200
# Lower bounds of the shades, and of a terminal's bars but the first, in nats; the same for every variant.
KL_BOUNDS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)


class Figures(list["alt.Chart"]):
    """The charts of a figure; a notebook shows all of them as SVG, without a network."""

    def _repr_html_(self) -> str:
        import vl_convert

        return "".join(f"<div>{vl_convert.vegalite_to_svg(chart.to_dict())}</div>" for chart in self)


@dataclass(frozen=True)
class Answer:
    """Rows under a title.

    Attributes:
        title: what the rows answer.
        note: how to read them.
        rows: all rows; a notebook shows the first ones.
    """

    title: str
    note: str
    rows: "pl.DataFrame"

    def _repr_html_(self) -> str:
        head, rows = _line("th", self.rows.columns), self.rows.head(_MAX_ROWS).iter_rows()
        table = f"<table><thead>{head}</thead><tbody>{''.join(_line('td', row) for row in rows)}</tbody></table>"
        count = f"{len(self.rows):,} rows, first {_MAX_ROWS}. " if len(self.rows) > _MAX_ROWS else ""
        return f"<h4>{escape(self.title)}</h4>{table}<small>{escape(count + self.note)}</small>"


@dataclass(frozen=True)
class TokenText:
    """The text of one prompt, token by token.

    Attributes:
        title: variant, prompt and trajectory.
        prompt: its text.
        rows: one row per token: `step`, the tokens of both sides, `kl_dense_pruned_nats`, `is_top1_same`.
        shown: `dense` or `pruned`, the side whose tokens make up the text.
    """

    title: str
    prompt: str
    rows: "pl.DataFrame"
    shown: str

    def _repr_html_(self) -> str:
        tokens = "".join(map(self._token, self.rows.iter_rows(named=True)))
        note = f"{' – '.join(f'{bound:g}' for bound in (KL_BOUNDS[0], KL_BOUNDS[-1]))} nats, light to dark"
        return (
            f'<h4>{escape(self.title)}</h4><pre style="white-space: pre-wrap">{escape(self.prompt)}\n\n{tokens}</pre>'
            f"<small>shade: KL(dense ‖ pruned), {note}; underlined: the most probable tokens differ</small>"
        )

    def _token(self, row: dict[str, object]) -> str:
        kl = float(str(row["kl_dense_pruned_nats"]))
        dense, pruned = str(row["token_text_dense"]), str(row["token_text_pruned"])
        title = f"step {row['step']}: KL {kl:.3g} nats; dense {dense!r}, pruned {pruned!r}"
        shade = bisect_right(KL_BOUNDS, kl) / len(KL_BOUNDS)
        line = "" if row["is_top1_same"] else "; text-decoration: underline"
        return (
            f'<span title="{escape(title)}" style="background: rgba(214, 69, 65, {shade:.2f}){line}">'
            f"{escape(str(row[f'token_text_{self.shown}']))}</span>"
        )


def _line(tag: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(shown_cell(cell))}</{tag}>' for cell in cells)}</tr>"
