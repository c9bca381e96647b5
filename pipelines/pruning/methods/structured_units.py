"""Discovery of an MLP's neurons and an attention's heads by the shapes of matrices, verified by running them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.sublayer import Sublayer, SublayerCall
from prunescope.pipelines.models.weight_matrices import CONVOLUTIONS, Matrix, Products
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments, InputRecorder
from prunescope.pipelines.pruning.masks import require_finite
from prunescope.pipelines.pruning.variant_patching import swap_weights

UnitKind = Literal["neurons", "heads"]
# Enough for non-uniform attention, and to reach some expert of every stack.
_PROBE_TOKENS = 16


# A matrix, or the same matrix of all experts by expert index; and the matrices of one module by name.
Stack = Mapping[int | None, Matrix]
Family = Mapping[str, Stack]


@dataclass(frozen=True)
class Units:
    """The neurons or heads whose outputs one matrix, `reader`, reads in consecutive blocks of equal size, one per unit.

    Query heads that share keys and values are one unit. If all query heads share one head of keys and values, each is a
    unit. `rows` are the rows that feed each unit, (units, rows per unit), by name of the feeding matrix. It is empty if
    it is not verified that each row belongs to one unit; the unit's columns in the reader can still be removed.
    """

    kind: UnitKind
    sublayer: Sublayer
    reader: Matrix
    count: int
    rows: Mapping[str, Int[Tensor, "units rows"]]

    @property
    def columns(self) -> Int[Tensor, "units columns"]:
        """The reader's columns of each unit."""
        return torch.arange(self.reader.shape[1]).reshape(self.count, -1)

    @property
    def weights(self) -> int:
        """The number of weights of one unit, in the reader and in the matrices that feed it."""
        fed = sum(rows.shape[1] * self.sublayer.matrices[name].shape[1] for name, rows in self.rows.items())
        return self.columns.shape[1] * self.reader.shape[0] + fed


def probe_calls(decoder: Decoder, sublayers: Sequence[Sublayer]) -> dict[str, SublayerCall]:
    """Return the arguments of each sublayer's call on a few random tokens, by label."""
    return decoder.calls_of(sublayers, probe_tokens(decoder, _PROBE_TOKENS))


def neurons_of(sublayer: Sublayer, call: SublayerCall, width: int) -> list[Units]:
    """Return the neurons of an MLP, separately for each expert.

    Verification: if the rows of some neurons in a feeding matrix are set to zero, the reader's inputs in all other
    channels stay bit for bit the same. If the neurons' columns in the reader are set to zero as well, the MLP's output
    stays the same, too.

    `call` holds the arguments of one of the MLP's calls; `width` is that of the residual stream.

    Raises:
        InputError: no matrix in the MLP reads neurons.
        ComputationError: its inputs or outputs are NaN or infinite.
    """
    probe = _Probe(sublayer, call)
    units: list[Units] = []
    for family in _families(sublayer):
        for name, readers in family.items():
            outputs, channels = _shape(readers)
            if outputs != width:
                continue
            # One row per neuron, or two if gate and up are one matrix.
            sizes = (channels, 2 * channels)
            feeders = {key: stack for key, stack in family.items() if key != name and _shape(stack)[0] in sizes}
            rows, mixed = probe.feeding(readers, feeders, channels)
            if not rows and channels == width:
                continue  # it may read the residual stream
            rows = {} if mixed else rows
            units += probe.verified("neurons", readers, feeders, rows, channels)
    if not units:
        raise InputError(f"{sublayer.name}: no matrix in it reads neurons and writes the stream; it has none to remove")
    return units


def heads_of(sublayer: Sublayer, call: SublayerCall, width: int, heads: int) -> list[Units]:
    """Return the heads of an attention, as the smallest groups that are independent of each other.

    Verification is that of `neurons_of`, with all other matrices of the attention as feeding matrices. Mixers with a
    convolution along the positions are recurrences (Mamba, linear attention), which have no heads and return no units.

    Arguments are those of `neurons_of` and the number of query heads.

    Raises:
        InputError: no grouping of the heads is verified.
        ComputationError: its inputs or outputs are NaN or infinite.
    """
    probe = _Probe(sublayer, call)
    units: list[Units] = []
    mixers = (mixer for mixer in sublayer.mixers if any(isinstance(each, CONVOLUTIONS) for each in mixer.modules()))
    for family in _families(sublayer, without={module for mixer in mixers for module in mixer.modules()}):
        heads_of_family = _heads_in(family, probe, width, heads)
        if not heads_of_family:
            raise InputError(
                f"{sublayer.name}: its heads are not independent of each other in {', '.join(family)} (for example "
                "because of a norm across heads); only neurons-, weight and drop recipes can be used"
            )
        units += heads_of_family
    return units


def _heads_in(family: Family, probe: "_Probe", width: int, heads: int) -> list[Units]:
    for name, readers in family.items():
        outputs, channels = _shape(readers)
        if outputs != width or channels % heads:
            continue
        feeders = {key: stack for key, stack in family.items() if key != name}
        for count in (groups for groups in range(heads, 1, -1) if heads % groups == 0):
            rows, mixed = probe.feeding(readers, feeders, count, is_whole=True)
            if rows and not mixed:
                return probe.verified("heads", readers, feeders, rows, count)
        # All query heads share one head of keys and values. It stays, and every query head is a unit.
        rows, mixed = probe.feeding(readers, feeders, heads, is_shared=True)
        if rows and all(_shape(feeders[key])[0] < channels for key in mixed):
            return probe.verified("heads", readers, feeders, rows, heads)
    return []


class _Probe:
    """A recorded call of a sublayer, repeated with some rows or columns of its matrices set to zero."""

    def __init__(self, sublayer: Sublayer, call: SublayerCall) -> None:
        if sublayer.unread:
            raise InputError(f"{sublayer.unread[0]} is not recognised as a matrix; only drops can be used")
        self._sublayer, self._call = sublayer, call

    def feeding(
        self, readers: Stack, feeders: Family, count: int, *, is_whole: bool = False, is_shared: bool = False
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Find the rows of some matrices that feed each of `count` units, which `readers` read in every expert.

        If `is_whole`, the search ends at the first matrix that feeds units but has no rows for single units. If
        `is_shared`, the last rows of a matrix may serve all units. The result is the rows of each unit by the matrix's
        key, and the keys of matrices that feed units but have no rows for single units. Matrices that do not feed the
        reader are in neither.
        """
        dense = self._inputs(readers, {})
        channels = _shape(readers)[1]
        some = _third(count)
        inside = torch.arange(channels).reshape(count, -1)[some].flatten()
        outside = torch.ones(channels, dtype=torch.bool).index_fill(0, inside, value=False)
        rows: dict[str, Tensor] = {}
        mixed = []
        for key, matrices in feeders.items():
            is_fed = False
            for sections in _layouts(_shape(matrices)[0], channels, count, is_shared=is_shared):
                candidate = _rows(sections, count)
                inputs = self._inputs(readers, _zeroed(matrices, candidate[some].flatten()))
                is_fed = not _same_inputs(inputs, dense, slice(None))
                if is_fed and _same_inputs(inputs, dense, outside):
                    rows[key] = candidate
                    break
                if not is_fed:
                    break
            else:
                zeros = {matrix.name: torch.zeros_like(matrix.stored) for matrix in matrices.values()}
                if is_fed or not _same_inputs(self._inputs(readers, zeros), dense, slice(None)):
                    mixed.append(key)
                    if is_whole:
                        break
        return rows, mixed

    def verified(
        self, kind: UnitKind, readers: Stack, feeders: Family, rows: Mapping[str, Tensor], count: int
    ) -> list[Units]:
        """Return the units of every reader, after checking that zeros in their rows do not change the output further.

        Raises:
            InputError: the output changes.
            ComputationError: the output is NaN or infinite.
        """
        some = _third(count)
        columns = torch.arange(_shape(readers)[1]).reshape(count, -1)[some].flatten()
        weights = _zeroed(readers, (slice(None), columns))
        fed: dict[str, Tensor] = {}
        for key, own in rows.items():
            fed |= _zeroed(feeders[key], own[some].flatten())
        output = self._output(weights)
        names = ", ".join(matrix.name for matrix in readers.values())
        require_finite(output, f"{names}: its output")
        if not torch.equal(output, self._output(weights | fed)):
            raise InputError(f"{names}: removing some of its inputs changes the others; units cannot be removed")
        return [
            Units(kind, self._sublayer, reader, count, {feeders[key][expert].name: own for key, own in rows.items()})
            for expert, reader in readers.items()
        ]

    def _inputs(self, readers: Stack, weights: Mapping[str, Tensor]) -> dict[str, ActivationMoments]:
        with swap_weights(self._sublayer, weights):
            recorder = InputRecorder({matrix.name: matrix for matrix in readers.values()})
            with Products(recorder.observe):
                self._sublayer.recompute(self._call)
            recorder.finish_batch()
        if not recorder.inputs:
            names = ", ".join(matrix.name for matrix in readers.values())
            raise InputError(f"{names}: none of {_PROBE_TOKENS} tokens reaches it, so its units cannot be verified")
        return recorder.inputs

    def _output(self, weights: Mapping[str, Tensor]) -> Tensor:
        with swap_weights(self._sublayer, weights):
            return self._sublayer.recompute(self._call)


def _same_inputs(
    inputs: Mapping[str, ActivationMoments], others: Mapping[str, ActivationMoments], channels: Tensor | slice
) -> bool:
    """Return whether all readers' sums and sums of squares of some channels are equal bit for bit."""
    return all(
        torch.equal(inputs[name].sums[channels], other.sums[channels])
        and torch.equal(inputs[name].squares[channels], other.squares[channels])
        for name, other in others.items()
    )


def _third(count: int) -> Tensor:
    """Return a random third of the units, whose rows are together only in the right layout."""
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return drawn[: max(1, count // 3)]


def _layouts(outputs: int, channels: int, count: int, *, is_shared: bool) -> Iterator[tuple[int, ...]]:
    """Yield the possible splits of a matrix's rows into sections, each of which holds equal blocks of all units.

    One section: separate matrices for gate, up, q, k and v, or one for all of a head (GPT-NeoX, Falcon), or gate and up
    alternating (gpt-oss). Two: gate followed by up. Three: q, k and v in turn, q the longest.
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
    starts = accumulate(sections, initial=0)
    return torch.cat(
        [torch.arange(start, start + size).reshape(count, -1) for start, size in zip(starts, sections, strict=False)],
        dim=1,
    )


def _zeroed(matrices: Stack, index: Tensor | tuple[slice, Tensor]) -> dict[str, Tensor]:
    """Return matrices with zeros at an index, such as some rows, by name and in the stored layout."""
    weights = {}
    for matrix in matrices.values():
        weight = matrix.weight.clone()
        weight[index] = 0
        weights[matrix.name] = (weight.T if matrix.is_transposed else weight).contiguous()
    return weights


def _shape(stack: Stack) -> tuple[int, int]:
    return next(iter(stack.values())).shape


def _families(sublayer: Sublayer, without: Collection[nn.Module] = ()) -> list[Family]:
    """Return the sublayer's matrices by module, except those of the modules `without`."""
    families: dict[str, dict[str, dict[int | None, Matrix]]] = {}
    for name, matrix in sublayer.matrices.items():
        key = name.partition("[")[0]
        module = key.removesuffix(".weight").rpartition(".")[0]
        if sublayer.modules.get(module) not in without:
            families.setdefault(module, {}).setdefault(key, {})[matrix.expert] = matrix
    return list(families.values())


def head_count(decoder: Decoder) -> int:
    """Return the number of query heads in the model's config."""
    config = cast(Any, decoder.model).config.get_text_config()
    return int(config.num_attention_heads)
