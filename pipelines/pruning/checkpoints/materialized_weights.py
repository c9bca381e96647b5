"""Every parameter of a pruned model, made when it is asked for, and which of them are zero where a sublayer is dropped.

In what form they are written is `forms.py`'s.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.load import load_model
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.models.sources import check_folder
from prunescope.pipelines.models.sublayer import Branch, Sublayer, SublayerCall, has_matrix
from prunescope.pipelines.models.weight_matrices import Matrix, Products
from prunescope.pipelines.models.weight_offload import data_of
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta

_TYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PROBE_TOKENS = 12


def stored_dtype(folder: Path) -> torch.dtype:
    """The type of most weights of a folder.

    Raises:
        InputError: its weights are in none of the types that a recipe can work on.
    """
    return _stored_dtypes(folder).most_common(1)[0][0]


def unchanged(decoder: Decoder) -> Mapping[str, Tensor]:
    """The dense parameters and buffers as they are stored, by name; the decoder's own where these are the same.

    A decoder that runs in a smaller type than its files have holds rounded weights; the files are read again then.
    """
    widest = reduce(torch.promote_types, _stored_dtypes(decoder.folder))
    model = decoder.model
    if torch.promote_types(widest, decoder.dtype) != decoder.dtype:
        model, _ = load_model(decoder.folder, widest, torch.device("cpu"), decoder.memory_for_second_model)
    return _Numbers(dict(model.state_dict(keep_vars=True)))


class _Numbers(Mapping[str, Tensor]):
    """Parameters and buffers; each is read from disk when it is asked for, if it rests there."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return data_of(self._tensors[name]).detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _stored_dtypes(folder: Path) -> Counter[torch.dtype]:
    """How many weights of a folder are in which type."""
    counts: Counter[torch.dtype] = Counter()
    for file in check_folder(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                part = opened.get_slice(name)
                if part.get_dtype() in _TYPES:
                    counts[_TYPES[part.get_dtype()]] += math.prod(part.get_shape())
    if not counts:
        raise InputError(f"{folder}: none of its weights is a float of 16 bits or more; such a model is not exported")
    return counts


def as_stored(decoder: Decoder, variant: Variant, dtype: torch.dtype) -> Variant:
    """The variant with its new values rounded to the type that they are stored in."""
    if torch.promote_types(dtype, decoder.dtype) == dtype:
        return variant
    parameters = {name: value.to(dtype).to(value.dtype) for name, value in variant.parameters.items()}
    return replace(variant, changes=_Rounded(decoder, variant.changes, dtype), parameters=parameters)


class _Rounded(Mapping[str, WeightDelta]):
    """Changes whose values fit into a smaller type; each is made when it is asked for."""

    def __init__(self, decoder: Decoder, changes: Mapping[str, WeightDelta], dtype: torch.dtype) -> None:
        self._matrices, self._changes, self._dtype = decoder.matrices, changes, dtype

    def __getitem__(self, name: str) -> WeightDelta:
        change, dense = self._changes[name], self._matrices[name].weight
        if change.values is None and change.codes is None:
            return change
        return WeightDelta.valued(change.weight(dense).to(self._dtype).to(dense.dtype), change.mask)

    def __iter__(self) -> Iterator[str]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def __contains__(self, name: object) -> bool:
        return name in self._changes


class MaterializedWeights:
    """The parameters of a decoder that wears a variant, and its buffers, by name.

    Args:
        decoder: the dense model.
        variant: what was done to it.
    """

    def __init__(self, decoder: Decoder, variant: Variant) -> None:
        self.silenced = silencing(decoder, variant) if variant.dropped else frozenset()
        self._variant, self._device = variant, decoder.device
        self._dense = _Numbers(dict(decoder.model.state_dict(keep_vars=True)))
        names = {id(parameter): name for name, parameter in decoder.model.named_parameters()}
        self._matrices: dict[str, list[Matrix]] = {}
        for matrix in decoder.matrices.values():
            if matrix.name in variant.changes:
                self._matrices.setdefault(names[id(matrix.parameter)], []).append(matrix)

    def __contains__(self, name: str) -> bool:
        """Whether there is a parameter or buffer of that name."""
        return name in self._dense or name in self._variant.parameters

    def is_changed(self, name: str) -> bool:
        """Whether it is another one than the dense model's."""
        return name in self.silenced or name in self._matrices or name in self._variant.parameters

    def tensor(self, name: str) -> Tensor:
        """The parameter or buffer, on the model's device; a tensor of its own where it was changed."""
        if name not in self._dense:
            value = self._variant.parameters[name].to(self._device)
            return torch.zeros_like(value) if name in self.silenced else value
        changed = self._matrices.get(name)
        if changed is not None and changed[0].expert is None and name not in self.silenced:
            return self._own(changed[0])
        dense = self._dense[name]
        if name in self.silenced:
            return torch.zeros_like(dense)
        if name in self._variant.parameters:
            return self._variant.parameters[name].to(dense)
        if changed is None:
            return dense
        stack = dense.clone()
        for matrix in changed:
            stack[matrix.expert] = self._own(matrix)
        return stack

    def _own(self, matrix: Matrix) -> Tensor:
        weight = self._variant.changes[matrix.name].weight(matrix.weight)
        return weight.T.contiguous() if matrix.is_transposed else weight


@torch.inference_mode()
def last_matrices(decoder: Decoder) -> dict[str, list[Matrix]]:
    """The matrix that each part of a sublayer multiplies with last, by the sublayer's label; of experts, one of them.

    Parts without a product that is known as one of a matrix are left out.
    """
    sublayers = list(decoder.sublayers)
    calls: dict[str, list[SublayerCall]] = {sublayer.label: [] for sublayer in sublayers}
    with hooks(*(handle for each in sublayers for handle in each.record_calls(calls[each.label]))):
        decoder.hidden(probe_tokens(decoder, _PROBE_TOKENS, seed=1))
    found: dict[str, list[Matrix]] = {}
    for sublayer in sublayers:
        order = _products(sublayer, calls[sublayer.label][0])
        for part in sublayer.parts:
            own = {id(parameter) for mixer in part.mixers for parameter in mixer.parameters()}
            last = [matrix for matrix in order if id(matrix.parameter) in own][-1:]
            found.setdefault(sublayer.label, []).extend(last)
    return found


def _products(sublayer: Sublayer, call: SublayerCall) -> list[Matrix]:
    """Its matrices in the order in which it multiplies with them."""
    order: list[Matrix] = []
    with sublayer.on_device():
        by_address = {matrix.address: matrix for matrix in sublayer.matrices.values()}

        def see(_: Tensor, operand: Tensor) -> None:
            known = (by_address.get(each.data_ptr()) for each in (operand if operand.dim() == 3 else [operand]))
            order.extend(matrix for matrix in known if matrix is not None)

        with Products(see):
            sublayer.recompute(call)
    return order


@torch.inference_mode()
def silencing(decoder: Decoder, variant: Variant) -> frozenset[str]:
    """Names of the parameters that must be zero for the dropped sublayers to add nothing: exactly nothing, as proved.

    The last matrix of each part and what is added behind it; where that is not enough (experts beside a shared one),
    all parameters of the part.

    Raises:
        InputError: a dropped sublayer adds something even with all its parameters at zero.
    """
    last = last_matrices(decoder)
    dropped = [sublayer for sublayer in decoder.sublayers if sublayer.label in variant.dropped]
    found: set[str] = set()
    with apply_variant(decoder, replace(variant, dropped=(), noise=None)):
        names = {id(parameter): name for name, parameter in decoder.model.named_parameters()}
        weights = dict(decoder.model.named_parameters())
        for whole in (False, True):
            loud = _adding(decoder, variant.dropped, [weights[name] for name in found]) if whole else set(last)
            for sublayer in dropped:
                if sublayer.label in loud:
                    written = [p for part in sublayer.parts for p in _written_last(part, last[sublayer.label])]
                    inside = [p for part in sublayer.parts for each in part.chain for p in each.parameters()]
                    found |= {names[id(parameter)] for parameter in (inside if whole else written)}
        loud = _adding(decoder, variant.dropped, [weights[name] for name in found])
    if loud:
        raise InputError(f"{sorted(loud)[0]}: adds to the stream even without weights; its drop cannot be exported")
    return frozenset(found)


def _written_last(part: Branch, last: list[Matrix]) -> Iterator[nn.Parameter]:
    """The last matrix's parameter and all biases of its module, and of norms behind it."""
    own = {id(matrix.parameter) for matrix in last}
    for mixer in part.chain:
        for module in mixer.modules():
            parameters = dict(module.named_parameters(recurse=False))
            if any(id(parameter) in own for parameter in parameters.values()):
                yield from (p for key, p in parameters.items() if id(p) in own or key == "bias")
            elif not has_matrix(mixer):
                yield from (p for key, p in parameters.items() if key == "bias")


def _adding(decoder: Decoder, labels: tuple[str, ...], zeroed: list[nn.Parameter]) -> set[str]:
    """Which of some sublayers still add something to the stream when some parameters are zero."""
    loud: set[str] = set()
    watched = [sublayer for sublayer in decoder.sublayers if sublayer.label in labels]

    def see(label: str) -> object:
        return lambda added: loud.add(label) if bool(added.any()) else None

    handles = [handle for sublayer in watched for handle in sublayer.watch(see(sublayer.label))]  # type: ignore[arg-type]
    with hooks(*handles), _zero(zeroed):
        decoder.hidden(probe_tokens(decoder, _PROBE_TOKENS, seed=1))
    return loud


@contextmanager
def _zero(parameters: list[nn.Parameter]) -> Iterator[None]:
    before = [(parameter, parameter.data) for parameter in parameters]
    zeros: dict[object, Tensor] = {}  # one for all of a shape: they may be many, and rest on disk otherwise
    try:
        for parameter, data in before:
            form = data.shape, data.dtype, data.device
            if form not in zeros:
                zeros[form] = torch.zeros(data.shape, dtype=data.dtype, device=data.device)
            parameter.data = zeros[form]
        yield
    finally:
        for parameter, data in before:
            parameter.data = data
