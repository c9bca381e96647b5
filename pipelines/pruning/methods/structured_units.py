"""The neurons of an MLP and the heads of an attention: which rows and columns belong to each, proved by running it.

Found by shapes, not by an architecture's names; which units are removed is `structure.py`'s.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.models.sublayer import Sublayer, SublayerCall
from prunescope.pipelines.models.weight_matrices import Matrix, Products
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments, InputRecorder
from prunescope.pipelines.pruning.variant_patching import swap_weights

UnitKind = Literal["neurons", "heads"]
# Enough for attention to be none of the uniform one, and for some expert of every stack to be reached.
_PROBE_TOKENS = 16
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Units:
    """The neurons or heads whose outputs one matrix reads.

    Attributes:
        kind: neurons, or heads; query heads that share keys and values are one unit, but for those that all share
            one, where each query head is.
        sublayer: theirs.
        reader: the matrix that reads them; its inputs are as many consecutive blocks as there are units.
        count: how many.
        rows: by name of each matrix that feeds them, its rows of every unit, (units, rows of one). Empty where no
            proof was found that rows belong to one unit alone; its columns in the reader can go all the same.
    """

    kind: UnitKind
    sublayer: Sublayer
    reader: Matrix
    count: int
    rows: Mapping[str, Int[Tensor, "units rows"]]

    @property
    def columns(self) -> Int[Tensor, "units columns"]:
        """The reader's columns of every unit."""
        return torch.arange(self.reader.shape[1]).reshape(self.count, -1)

    @property
    def weights(self) -> int:
        """Weights of one unit, in the reader and in what feeds it."""
        fed = sum(own.shape[1] * self.sublayer.matrices[name].shape[1] for name, own in self.rows.items())
        return self.columns.shape[1] * self.reader.shape[0] + fed


Stack = Mapping[int | None, Matrix]
Family = Mapping[str, Stack]


def probe_calls(decoder: Decoder, sublayers: Sequence[Sublayer]) -> dict[str, SublayerCall]:
    """How sublayers are called on a few random tokens, by label."""
    tokens = probe_tokens(decoder, _PROBE_TOKENS)
    calls: dict[str, list[SublayerCall]] = {each.label: [] for each in sublayers}
    handles = [handle for each in sublayers for handle in each.record_calls(calls[each.label])]
    with hooks(*handles):
        decoder.hidden(tokens)
    return {label: found[0] for label, found in calls.items()}


def neurons_of(sublayer: Sublayer, call: SublayerCall, width: int) -> list[Units]:
    """The neurons of an MLP; those of every expert by themselves.

    Proof: with the rows of some neurons zero in a matrix that feeds them, what flows into the reader is bit for bit
    the same in the channels of all others, and with their columns zero the MLP adds the same as before.

    Args:
        sublayer: an MLP.
        call: how it was called once.
        width: of the stream.

    Raises:
        InputError: no matrix in it reads neurons.
        ComputationError: what it reads or adds is NaN or infinite.
    """
    _require_read(sublayer)
    probe = _Probe(sublayer, call)
    found: list[Units] = []
    for family in _families(sublayer):
        for stem, readers in family.items():
            outputs, channels = _shape(readers)
            if outputs != width:
                continue
            feeders = {key: own for key, own in family.items() if key != stem and _shape(own)[0] in _fed(channels)}
            rows, mixed = probe.feeding(readers, feeders, channels)
            if not rows and channels == width:
                continue  # it may as well read the stream
            rows = {} if mixed else rows
            probe.require(readers, feeders, rows, channels)
            found += _units("neurons", sublayer, readers, feeders, rows, channels)
    if not found:
        raise InputError(f"{sublayer.name}: no matrix in it reads neurons and writes the stream; it has none to remove")
    return found


def heads_of(sublayer: Sublayer, call: SublayerCall, width: int, heads: int) -> list[Units]:
    """The heads of an attention, as the smallest groups that are independent of each other.

    The proof is that of `neurons_of`, with all of the attention's other matrices as those that feed. Mixers with a
    convolution along the positions are recurrences (Mamba, linear attention): they have no heads.

    Args:
        sublayer: an attention, maybe with a recurrence beside it.
        call: how it was called once.
        width: of the stream.
        heads: query heads.

    Returns:
        Nothing where it is a recurrence.

    Raises:
        InputError: no grouping of the heads is proved.
        ComputationError: what it reads or adds is NaN or infinite.
    """
    _require_read(sublayer)
    probe = _Probe(sublayer, call)
    found: list[Units] = []
    for family in _families(sublayer, without=_recurrent(sublayer)):
        own = _heads_in(family, sublayer, probe, width, heads)
        if not own:
            names = ", ".join(family)
            raise InputError(
                f"{sublayer.name}: its heads are not independent of each other in {names} (a norm across heads, "
                "say); only neurons-, weight and drop recipes can be used"
            )
        found += own
    return found


def _heads_in(family: Family, sublayer: Sublayer, probe: "_Probe", width: int, heads: int) -> list[Units]:
    for stem, readers in family.items():
        outputs, channels = _shape(readers)
        if outputs != width or channels % heads:
            continue
        feeders = {key: own for key, own in family.items() if key != stem}
        for count in (groups for groups in range(heads, 1, -1) if heads % groups == 0):
            rows, mixed = probe.feeding(readers, feeders, count, is_whole=True)
            if rows and not mixed:
                probe.require(readers, feeders, rows, count)
                return _units("heads", sublayer, readers, feeders, rows, count)
        # One head of keys and values for all: it stays, and every query head is a unit.
        rows, mixed = probe.feeding(readers, feeders, heads, is_shared=True)
        if rows and all(_shape(feeders[key])[0] < channels for key in mixed):
            probe.require(readers, feeders, rows, heads)
            return _units("heads", sublayer, readers, feeders, rows, heads)
    return []


def _units(
    kind: UnitKind,
    sublayer: Sublayer,
    readers: Stack,
    feeders: Family,
    rows: Mapping[str, Tensor],
    count: int,
) -> list[Units]:
    """The units of every expert; of one matrix that is none."""
    return [
        Units(kind, sublayer, reader, count, {feeders[stem][expert].name: own for stem, own in rows.items()})
        for expert, reader in readers.items()
    ]


class _Probe:
    """A sublayer that is called again and again as it was called once, with some rows or columns zero."""

    def __init__(self, sublayer: Sublayer, call: SublayerCall) -> None:
        self._sublayer, self._call = sublayer, call

    def feeding(
        self, readers: Stack, feeders: Family, count: int, *, is_whole: bool = False, is_shared: bool = False
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Which rows of some matrices feed which units.

        Args:
            readers: the matrix that reads the units, of every expert.
            feeders: matrices that may feed them.
            count: units.
            is_whole: whether the first matrix that feeds units without rows of their own ends the search.
            is_shared: whether the last rows of a matrix may serve all units.

        Returns:
            Rows of every unit by the matrix's stem, and the stems of matrices that feed units, but without rows that
            belong to one alone. Matrices that do not feed the reader are in neither.
        """
        dense = self._inputs(readers, {})
        channels = _shape(readers)[1]
        some = _some(count)
        inside = torch.arange(channels).reshape(count, -1)[some].flatten()
        outside = torch.ones(channels, dtype=torch.bool).index_fill(0, inside, value=False)
        rows: dict[str, Tensor] = {}
        mixed = []
        for stem, matrices in feeders.items():
            is_fed = False
            for sections in _layouts(_shape(matrices)[0], channels, count, is_shared=is_shared):
                own = _rows(sections, count)
                found = self._inputs(readers, _without_rows(matrices, own[some].flatten()))
                is_fed = any(not _same(found[name], seen, slice(None)) for name, seen in dense.items())
                if is_fed and all(_same(found[name], seen, outside) for name, seen in dense.items()):
                    rows[stem] = own
                    break
                if not is_fed:
                    break
            else:
                if is_fed or not self._ignores(readers, matrices, dense):
                    mixed.append(stem)
                    if is_whole:
                        break
        return rows, mixed

    def require(self, readers: Stack, feeders: Family, rows: Mapping[str, Tensor], count: int) -> None:
        """Refuses units without which the sublayer adds something else, with all of their rows zero at once."""
        some = _some(count)
        columns = torch.arange(_shape(readers)[1]).reshape(count, -1)[some].flatten()
        weights = {}
        for matrix in readers.values():
            weight = matrix.weight.clone()
            weight[:, columns] = 0
            weights[matrix.name] = _own_layout(matrix, weight)
        fed: dict[str, Tensor] = {}
        for stem, own in rows.items():
            fed |= _without_rows(feeders[stem], own[some].flatten())
        truth = self._output(weights)
        names = ", ".join(matrix.name for matrix in readers.values())
        if not bool(truth.isfinite().all()):
            raise ComputationError(f"{names}: what it adds is NaN or infinite; its weights are damaged")
        if not torch.equal(truth, self._output(weights | fed)):
            raise InputError(f"{names}: without some of what it reads, the rest is not what it was; refused")

    def _ignores(self, readers: Stack, matrices: Stack, dense: Mapping[str, ActivationMoments]) -> bool:
        """Whether the reader's inputs are the same with all of some matrices zero."""
        zero = {each.name: torch.zeros_like(each.stored) for each in matrices.values()}
        found = self._inputs(readers, zero)
        return all(_same(found[name], seen, slice(None)) for name, seen in dense.items())

    def _inputs(self, readers: Stack, weights: Mapping[str, Tensor]) -> dict[str, ActivationMoments]:
        with swap_weights([self._sublayer], weights):
            watch = InputRecorder({matrix.name: matrix for matrix in readers.values()})
            with Products(watch.see):
                self._sublayer.recompute(self._call)
            watch.count()
        if not watch.inputs:
            names = ", ".join(matrix.name for matrix in readers.values())
            raise InputError(f"{names}: is reached by none of {_PROBE_TOKENS} tokens, so nothing is proved of it")
        return watch.inputs

    def _output(self, weights: Mapping[str, Tensor]) -> Tensor:
        with swap_weights([self._sublayer], weights):
            return self._sublayer.recompute(self._call)


def _same(one: ActivationMoments, other: ActivationMoments, channels: Tensor | slice) -> bool:
    """Whether the same numbers flowed in, as far as sums and sums of squares of each channel tell, bit for bit."""
    return torch.equal(one.sums[channels], other.sums[channels]) and torch.equal(
        one.squares[channels], other.squares[channels]
    )


def _some(count: int) -> Tensor:
    """A third of the units, drawn at random: no layout but the right one has their rows together."""
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return drawn[: max(1, count // 3)]


def _fed(channels: int) -> tuple[int, int]:
    """Rows of a matrix that feeds neurons: one each, or two (gate and up in one)."""
    return channels, 2 * channels


def _layouts(outputs: int, channels: int, count: int, *, is_shared: bool) -> Iterator[tuple[int, ...]]:
    """Ways in which a matrix's rows may be split into sections, each of which holds equal blocks of all units.

    One section: a matrix each for gate, up, q, k and v, or all of a head's (GPT-NeoX, Falcon), or gate and up in
    turns (gpt-oss). Two: gate and up behind each other. Three: q, k and v behind each other, q the longest.
    """
    key = (outputs - channels) // 2
    if count == channels and outputs == 2 * channels:
        yield channels, channels
    if outputs % count == 0:
        yield (outputs,)
    if outputs == channels + 2 * key and key > 0 and key % count == 0 and count < channels:
        yield channels, key, key
    if is_shared and outputs > channels:
        yield (channels,)


def _rows(sections: Sequence[int], count: int) -> Int[Tensor, "units rows"]:
    starts = [sum(sections[:place]) for place in range(len(sections))]
    return torch.cat(
        [torch.arange(start, start + size).reshape(count, -1) for start, size in zip(starts, sections, strict=True)],
        dim=1,
    )


def _without_rows(matrices: Stack, rows: Tensor) -> dict[str, Tensor]:
    found = {}
    for matrix in matrices.values():
        weight = matrix.weight.clone()
        weight[rows] = 0
        found[matrix.name] = _own_layout(matrix, weight)
    return found


def _own_layout(matrix: Matrix, weight: Tensor) -> Tensor:
    return weight.T.contiguous() if matrix.is_transposed else weight.contiguous()


def _shape(stack: Stack) -> tuple[int, int]:
    return next(iter(stack.values())).shape


def _families(sublayer: Sublayer, without: Collection[nn.Module] = ()) -> list[Family]:
    """Matrices that lie in one module, by stem, and within a stem by expert.

    Args:
        sublayer: theirs.
        without: modules whose matrices are left out.
    """
    families: dict[str, dict[str, dict[int | None, Matrix]]] = {}
    for name, matrix in sublayer.matrices.items():
        stem = name.partition("[")[0]
        home = stem.removesuffix(".weight").rpartition(".")[0]
        if sublayer.modules.get(home) not in without:
            families.setdefault(home, {}).setdefault(stem, {})[matrix.expert] = matrix
    return list(families.values())


def _recurrent(sublayer: Sublayer) -> set[nn.Module]:
    """All modules of mixers that hold a convolution."""
    return {
        module
        for mixer in sublayer.mixers
        if any(isinstance(inside, _CONVOLUTIONS) for inside in mixer.modules())
        for module in mixer.modules()
    }


def _require_read(sublayer: Sublayer) -> None:
    if sublayer.unread:
        raise InputError(f"{sublayer.unread[0]} is no matrix, as far as can be seen; only drops can be used")


def head_count(decoder: Decoder) -> int:
    """Query heads of an attention, by the model's config."""
    config = cast(Any, decoder.model).config.get_text_config()
    return int(config.num_attention_heads)
