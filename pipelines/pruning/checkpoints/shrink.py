"""Which neurons and heads a pruned model has left, found from its zeros, and which indices of its matrices stay.

Which config makes such matrices is `forms.py`'s.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.pruning.checkpoints.materialized_weights import MaterializedWeights

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
        cut: names of the parameters that have to be cut, or the config is another one's.
        groups: key-value heads before and after; None for neurons.
        size: numbers of a head; 0 for neurons.
    """

    told: str
    before: int
    after: int
    rules: Mapping[str, Rules]
    cut: frozenset[str]
    groups: tuple[int, int] | None = None
    size: int = 0


def widths_of(
    decoder: Decoder, worn: MaterializedWeights, last: Mapping[str, list[Matrix]], layers: tuple[int, ...]
) -> list[list[Widths]]:
    """What can be narrower: whole neurons and heads that add nothing, in every layer that is kept.

    Each with its alternatives, the narrowest first: not every number of heads makes a config.

    Args:
        decoder: the dense model.
        worn: the pruned one's parameters.
        last: the last matrix of every sublayer.
        layers: those that are kept.
    """
    kept = [decoder.layers[index] for index in layers]
    neurons = [[each] for each in _neurons([layer.mlp for layer in kept], worn, last)]
    heads = list(_heads(decoder, [layer.attn for layer in kept], worn, last))
    return [*neurons, heads] if heads else neurons


def _neurons(
    sublayers: list[Sublayer], worn: MaterializedWeights, last: Mapping[str, list[Matrix]]
) -> Iterator[Widths]:
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
        cut = frozenset(name for sublayer, _ in each for name in _writing(sublayer, last, {inner, 2 * inner}))
        yield Widths(f"MLPs have {after} neurons in place of {inner}", inner, after, rules, cut)


def _alive_neurons(sublayer: Sublayer, worn: MaterializedWeights, output: Matrix) -> Bool[Tensor, " inner"]:
    """Neurons that the last matrix reads and that all matrices before it write."""
    alive = _weight(worn, output).ne(0).any(dim=0)
    for matrix in sublayer.matrices.values():
        outputs = matrix.shape[0]
        if matrix is output or outputs not in {len(alive), 2 * len(alive)}:
            continue
        written = _weight(worn, matrix).ne(0).any(dim=1)
        bias = f"{matrix.name}.bias"
        if bias in worn:
            written |= worn.tensor(bias).ne(0)
        for half in written.split(len(alive)):
            alive &= half
    return alive.cpu()


def _heads(
    decoder: Decoder, sublayers: list[Sublayer], worn: MaterializedWeights, last: Mapping[str, list[Matrix]]
) -> Iterator[Widths]:
    """Fewer heads in all attentions: whole groups that share keys and values, or as many queries from each group."""
    config = cast(Any, decoder.model).config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    groups = int(getattr(config, "num_key_value_heads", 0) or heads)
    widths = {matrix.shape[1] for each in sublayers for matrix in last[each.label]}
    if not heads or heads % groups or len(widths) != 1 or any(len(last[each.label]) != 1 for each in sublayers):
        return
    (width,) = widths
    if width % heads:
        return
    size, queries = width // heads, heads // groups
    alive = [
        _weight(worn, last[each.label][0]).ne(0).any(dim=0).reshape(groups, queries, size).any(dim=2).cpu()
        for each in sublayers
    ]
    fewest_groups = max(1, *(int(each.any(dim=1).sum()) for each in alive))
    fewest_queries = max(1, *(int(each.sum(dim=1).max()) for each in alive))
    choices = [(g, q) for g in range(fewest_groups, groups + 1) for q in range(fewest_queries, queries + 1)]
    for kept_groups, kept_queries in sorted(choices, key=lambda each: each[0] * each[1]):
        if kept_groups * kept_queries < heads:
            told = f"attentions have {kept_groups * kept_queries} heads in place of {heads}"
            if queries > 1:
                told += f", {kept_groups} of keys and values in place of {groups}"
            written = {width, (heads + 2 * groups) * size} | ({groups * size} if kept_groups < groups else set())
            yield Widths(
                told,
                heads,
                kept_groups * kept_queries,
                _head_rules(sublayers, alive, size, kept_groups, kept_queries),
                frozenset(name for each in sublayers for name in _writing(each, last, written)),
                (groups, kept_groups),
                size,
            )


def _writing(sublayer: Sublayer, last: Mapping[str, list[Matrix]], sizes: set[int]) -> Iterator[str]:
    """Weights of a sublayer's last matrix and of those that give it so many numbers to read."""
    for matrix in sublayer.matrices.values():
        if matrix in last[sublayer.label] or matrix.shape[0] in sizes:
            yield f"{matrix.name}.weight"


def _head_rules(
    sublayers: list[Sublayer],
    alive: list[Bool[Tensor, "groups queries"]],
    size: int,
    kept_groups: int,
    kept_queries: int,
) -> dict[str, Rules]:
    """How attentions are cut that keep so many groups of so many queries.

    Args:
        sublayers: attentions.
        alive: which heads of each are left.
        size: numbers of a head.
        kept_groups: groups that share keys and values.
        kept_queries: query heads in each of them.
    """
    groups, queries = alive[0].shape
    heads, after = groups * queries, kept_groups * kept_queries
    of_queries, of_keys = (heads * size, after * size), (groups * size, kept_groups * size)
    of_joint = ((heads + 2 * groups) * size, (after + 2 * kept_groups) * size)
    rules: dict[str, Rules] = {}
    for sublayer, each in zip(sublayers, alive, strict=True):
        chosen = _first(each.any(dim=1), kept_groups)
        kept = torch.cat([_first(each[group], kept_queries) + group * queries for group in chosen.tolist()])
        query, key = _spread(kept, size), _spread(chosen, size)
        joint = torch.cat([query, heads * size + key, (heads + groups) * size + key])
        # The last of two equal sizes counts: with as many keys as queries they are cut alike.
        rule = {(heads, after): kept, of_joint: joint, of_keys: key, of_queries: query}
        rules |= dict.fromkeys(_tops(sublayer), rule)
    return rules


def _weight(worn: MaterializedWeights, matrix: Matrix) -> Tensor:
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
