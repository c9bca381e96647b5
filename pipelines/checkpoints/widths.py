"""Which neurons and heads a pruned model has left, found from its zeros, and which indices of its matrices stay.

Which config makes such matrices is `forms.py`'s.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from pipelines.checkpoints.worn import Worn
from pipelines.models.decoder import Decoder
from pipelines.models.matrices import Matrix
from pipelines.models.sublayer import Sublayer

# Size before and after a cut, and the indices that stay.
Rules = Mapping[tuple[int, int], Tensor]


@dataclass(frozen=True)
class Widths:
    """Smaller matrices for all layers of one size.

    Attributes:
        told: what is gone, in words.
        before: neurons, or query heads, of each layer as it was.
        after: how many each layer keeps: as many as the fullest one has left.
        rules: by the name of a module, how its parameters are cut.
        needed: of each of these sets of cuts at least one has to be made, or the config is another one's.
        groups: key-value heads before and after; None for neurons.
        size: numbers of a head; 0 for neurons.
    """

    told: str
    before: int
    after: int
    rules: Mapping[str, Rules]
    needed: tuple[frozenset[tuple[int, int]], ...]
    groups: tuple[int, int] | None = None
    size: int = 0


def widths_of(decoder: Decoder, worn: Worn, last: Mapping[str, list[Matrix]], layers: tuple[int, ...]) -> list[Widths]:
    """What can be narrower: whole neurons and heads that add nothing, in every layer that is kept.

    Args:
        decoder: the dense model.
        worn: the pruned one's parameters.
        last: the last matrix of every sublayer.
        layers: those that are kept.
    """
    kept = [decoder.layers[index] for index in layers]
    return [*_neurons([layer.mlp for layer in kept], worn, last), *_heads(decoder, kept, worn, last)]


def _neurons(sublayers: list[Sublayer], worn: Worn, last: Mapping[str, list[Matrix]]) -> Iterator[Widths]:
    """One width for all MLPs that have the same number of neurons; experts are left as they are."""
    alive: dict[int, list[tuple[Sublayer, Bool[Tensor, " inner"]]]] = {}
    for sublayer in sublayers:
        matrices = last[sublayer.label]
        if len(matrices) == 1 and all(matrix.expert is None for matrix in sublayer.matrices.values()):
            found = _alive_neurons(sublayer, worn, matrices[0])
            alive.setdefault(len(found), []).append((sublayer, found))
    for inner, each in alive.items():
        after = max(1, *(int(found.sum()) for _, found in each))
        if after == inner:
            continue
        rules: dict[str, Rules] = {}
        for sublayer, found in each:
            index = _first(found, after)
            rule = {(inner, after): index, (2 * inner, 2 * after): torch.cat([index, index + inner])}
            rules |= dict.fromkeys(_tops(sublayer), rule)
        needed = (frozenset({(inner, after)}),)
        yield Widths(f"MLPs have {after} neurons in place of {inner}", inner, after, rules, needed)


def _alive_neurons(sublayer: Sublayer, worn: Worn, output: Matrix) -> Bool[Tensor, " inner"]:
    """Neurons that the last matrix reads and that all matrices before it write."""
    alive = _weight(worn, output).ne(0).any(dim=0)
    for matrix in sublayer.matrices.values():
        outputs = matrix.weight.shape[0]
        if matrix is output or outputs not in {len(alive), 2 * len(alive)}:
            continue
        written = _weight(worn, matrix).ne(0).any(dim=1)
        bias = f"{matrix.name}.bias"
        if bias in worn:
            written |= worn.tensor(bias).ne(0)
        for half in written.split(len(alive)):
            alive &= half
    return alive.cpu()


def _heads(decoder: Decoder, layers: list[Any], worn: Worn, last: Mapping[str, list[Matrix]]) -> Iterator[Widths]:
    """One number of heads for all attentions; queries that share keys and values stay together."""
    config = cast(Any, decoder.model).config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    groups = int(getattr(config, "num_key_value_heads", 0) or heads)
    found = [(layer.attn, last[layer.attn.label]) for layer in layers]
    if not heads or any(len(m) != 1 or m[0].weight.shape[1] % heads for _, m in found):
        return
    size = found[0][1][0].weight.shape[1] // heads
    if any(m[0].weight.shape[1] != heads * size for _, m in found):
        return
    alive = [
        _weight(worn, m[0]).ne(0).any(dim=0).reshape(groups, heads // groups, size).any(dim=2).cpu() for _, m in found
    ]
    after_groups = max(1, *(int(each.any(dim=1).sum()) for each in alive))
    each_group = max(1, *(int(each.sum(dim=1).max()) for each in alive))
    after = after_groups * each_group
    if after == heads:
        return
    of_queries, of_keys = (heads * size, after * size), (groups * size, after_groups * size)
    of_joint = ((heads + 2 * groups) * size, (after + 2 * after_groups) * size)
    rules: dict[str, Rules] = {}
    for (sublayer, _), each in zip(found, alive, strict=True):
        kept_groups = _first(each.any(dim=1), after_groups)
        kept = torch.cat([_first(each[g], each_group) + g * (heads // groups) for g in kept_groups.tolist()])
        queries, keys = _spread(kept, size), _spread(kept_groups, size)
        joint = torch.cat([queries, heads * size + keys, (heads + groups) * size + keys])
        # The last of two equal sizes counts: with as many keys as queries they are cut alike.
        rule = {(heads, after): kept, of_joint: joint, of_keys: keys, of_queries: queries}
        rules |= dict.fromkeys(_tops(sublayer), rule)
    told = f"attentions have {after} heads in place of {heads}"
    if groups != heads:
        told += f", {after_groups} of keys and values in place of {groups}"
    needed = [frozenset({of_queries})]
    if groups != after_groups:
        needed.append(frozenset({of_keys, of_joint}))
    yield Widths(told, heads, after, rules, tuple(needed), (groups, after_groups), size)


def _weight(worn: Worn, matrix: Matrix) -> Tensor:
    """The worn weight, (outputs, inputs)."""
    weight = worn.tensor(f"{matrix.name}.weight")
    return weight.T if matrix.is_transposed else weight


def _first(wanted: Bool[Tensor, " all"], count: int) -> Tensor:
    """Indices of those that are wanted and, up to a count, of others, in order."""
    order = torch.argsort(~wanted, stable=True)[:count]
    return order.sort().values


def _spread(index: Tensor, size: int) -> Tensor:
    """Indices of all numbers of some heads."""
    return (index[:, None] * size + torch.arange(size)).reshape(-1)


def _tops(sublayer: Sublayer) -> list[str]:
    """Names of the modules that a sublayer consists of."""
    names = {id(module): name for name, module in sublayer.modules.items()}
    return [names[id(mixer)] for mixer in sublayer.mixers]
