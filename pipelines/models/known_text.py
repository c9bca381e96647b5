"""A short text that a decoder has read in one pass, to prove that other ways to read it give the same in each layer."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.metrics.rounding import distance, is_close, other_rounding
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import CODE_ERRORS, Arguments, hooks, stream_of, with_state
from prunescope.pipelines.models.sublayer import watch_all

# A pass to run, and the columns of its last row that hold tokens of the text. The passes of a reading cover the text in
# order.
Pass = tuple[Callable[[], object], slice]
WHOLE = slice(None)


class KnownText:
    """The contribution of every sublayer when the whole text is read in one pass, and its rounding error.

    In every other reading, each layer but the first gets the stream of this one, so only its own rounding must be
    tolerated. In bfloat16 the rounding of all earlier layers reaches a third of a contribution: it could hide a fault,
    or look like one.

    Attributes:
        added: contributions by label, (1, tokens, width).
        rounding: distance by which rounding within its layer moves each contribution.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, tokens: Int[Tensor, "1 tokens"]) -> None:
        """Read the text twice, the second time with other rounding; the decoder's layers must be proved before."""
        self._decoder = decoder
        self._streams = dict[int, Tensor]()
        once: list[Pass] = [(partial(decoder.hidden, tokens), WHOLE)]
        self.added = self._read(once)
        with other_rounding(decoder.model):
            moved = self._read(once)
        self.rounding = {label: distance(moved[label], truth) for label, truth in self.added.items()}

    def is_read_by(self, passes: Iterable[Pass], refusals: tuple[type[Exception], ...] = CODE_ERRORS) -> bool:
        """Return whether another reading gives the known contributions; False if one of the errors refuses it."""
        try:
            return self.differing(passes) is None
        except refusals:
            return False

    @torch.inference_mode()
    def differing(self, passes: Iterable[Pass]) -> str | None:
        """Return the name of the first sublayer whose contribution differs in another reading, or None.

        The reading may omit the end of the text. Rows other than the last may hold anything.
        """
        added = self._read(passes)
        differing = (each for each in self._decoder.sublayers if not self.is_known(each.label, added[each.label]))
        return next((each.name for each in differing), None)

    def is_known(self, label: str, added: Tensor) -> bool:
        """Return whether a contribution at the text's first tokens is the known one, up to rounding."""
        return is_close(added, self.added[label][:, : added.shape[1]], self.rounding[label])

    def _read(self, passes: Iterable[Pass]) -> dict[str, Tensor]:
        """Return what every sublayer adds to the text; the first reading keeps the streams before the layers."""
        added = defaultdict[str, list[Tensor]](list)
        columns, begin = WHOLE, 0

        def note(label: str, value: Tensor) -> None:
            added[label].append(value[-1:, columns])

        def anchor(index: int, _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
            stream = stream_of(args, kwargs)
            known = self._streams.setdefault(index, stream)
            # The first layer keeps its own stream, to show what embeddings and positions add.
            if index:
                stream = stream.clone()
                row = stream[-1:, columns]
                row.copy_(known[:, begin : begin + row.shape[1]])
            return with_state(args, kwargs, stream)

        decoder = self._decoder
        handles = watch_all(decoder.sublayers, note)
        for index, layer in enumerate(decoder.layers):
            handles.append(layer.module.register_forward_pre_hook(partial(anchor, index), with_kwargs=True))
        with hooks(*handles):
            for run, columns in passes:  # noqa: B007 (the hooks read it)
                run()
                begin = sum(each.shape[1] for each in added[decoder.layers[0].attn.label])
        return {label: torch.cat(parts, dim=1) for label, parts in added.items()}
