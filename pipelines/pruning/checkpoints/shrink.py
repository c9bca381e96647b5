"""Neurons and heads whose weights are all zero, and the indices of the smaller matrices without them."""

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

# The remaining indices by size before and after a cut.
Rules = Mapping[tuple[int, int], Tensor]


@dataclass(frozen=True)
class Widths:
    """Smaller matrices for all layers of one size.

    `before` is the number of neurons or query heads per layer, `after` what each layer keeps, set by the layer with the
    most nonzero ones. `rules` say how the parameters of each module are cut, by module name; a matching config must cut
    those in `cut`. `groups` are key-value heads before and after (None for neurons), `size` the width of a head (0 for
    neurons).
    """

    description: str
    before: int
    after: int
    rules: Mapping[str, Rules]
    cut: frozenset[str]
    groups: tuple[int, int] | None = None
    size: int = 0


def widths_of(
    decoder: Decoder, weights: MaterializedWeights, last: Mapping[str, list[Matrix]], layers: tuple[int, ...]
) -> list[list[Widths]]:
    """Return the possible reductions of neurons and heads that are zero in all remaining layers.

    Each comes with its alternatives, narrowest first, because not every number of heads gives a valid config. `last` is
    the result of `last_matrices`.
    """
    remaining = [decoder.layers[index] for index in layers]
    neurons = [[widths] for widths in _neurons([layer.mlp for layer in remaining], weights, last)]
    heads = list(_heads(decoder, [layer.attn for layer in remaining], weights, last))
    return [*neurons, heads] if heads else neurons


def _neurons(
    sublayers: list[Sublayer], weights: MaterializedWeights, last: Mapping[str, list[Matrix]]
) -> Iterator[Widths]:
    """Yield one width for all MLPs with the same number of neurons; experts are unchanged."""
    by_size: dict[int, list[tuple[Sublayer, Bool[Tensor, " inner"]]]] = {}
    for sublayer in sublayers:
        matrices = last[sublayer.label]
        if len(matrices) == 1 and all(matrix.expert is None for matrix in sublayer.matrices.values()):
            alive = _alive_neurons(sublayer, weights, matrices[0])
            by_size.setdefault(len(alive), []).append((sublayer, alive))
    for inner, group in by_size.items():
        after = max(1, *(int(alive.sum()) for _, alive in group))
        if after == inner:
            continue
        rules: dict[str, Rules] = {}
        for sublayer, alive in group:
            index = _first(alive, after)
            rule = {(inner, after): index, (2 * inner, 2 * after): torch.cat([index, index + inner])}
            rules |= dict.fromkeys(_mixer_names(sublayer), rule)
        cut = frozenset(name for sublayer, _ in group for name in _cut_weights(sublayer, last, {inner, 2 * inner}))
        yield Widths(f"MLPs have {after} neurons in place of {inner}", inner, after, rules, cut)


def _alive_neurons(sublayer: Sublayer, weights: MaterializedWeights, output: Matrix) -> Bool[Tensor, " inner"]:
    """Return the neurons that the last matrix reads and that all matrices before it write."""
    alive = _weight(weights, output).ne(0).any(dim=0)
    for matrix in sublayer.matrices.values():
        if matrix is output or matrix.shape[0] not in {len(alive), 2 * len(alive)}:
            continue
        written = _weight(weights, matrix).ne(0).any(dim=1)
        bias = f"{matrix.name}.bias"
        if bias in weights:
            written |= weights.tensor(bias).ne(0)
        for half in written.split(len(alive)):
            alive &= half
    return alive.cpu()


def _heads(
    decoder: Decoder, sublayers: list[Sublayer], weights: MaterializedWeights, last: Mapping[str, list[Matrix]]
) -> Iterator[Widths]:
    """Yield smaller numbers of heads: fewer groups that share keys and values, or fewer queries per group."""
    config = cast(Any, decoder.model).config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    groups = int(getattr(config, "num_key_value_heads", 0) or heads)
    outputs = [last[sublayer.label] for sublayer in sublayers]
    widths = {matrix.shape[1] for matrices in outputs for matrix in matrices}
    if not heads or heads % groups or len(widths) != 1 or any(len(matrices) != 1 for matrices in outputs):
        return
    (width,) = widths
    if width % heads:
        return
    size, queries = width // heads, heads // groups
    alive = [
        _weight(weights, matrix).ne(0).any(dim=0).reshape(groups, queries, size).any(dim=2).cpu()
        for (matrix,) in outputs
    ]
    min_groups = max(1, *(int(own.any(dim=1).sum()) for own in alive))
    min_queries = max(1, *(int(own.sum(dim=1).max()) for own in alive))
    choices = [(g, q) for g in range(min_groups, groups + 1) for q in range(min_queries, queries + 1)]
    for new_groups, new_queries in sorted(choices, key=lambda choice: choice[0] * choice[1]):
        if new_groups * new_queries < heads:
            description = f"attentions have {new_groups * new_queries} heads in place of {heads}"
            if queries > 1:
                description += f", {new_groups} of keys and values in place of {groups}"
            written = {width, (heads + 2 * groups) * size} | ({groups * size} if new_groups < groups else set())
            yield Widths(
                description,
                heads,
                new_groups * new_queries,
                _head_rules(sublayers, alive, size, new_groups, new_queries),
                frozenset(name for sublayer in sublayers for name in _cut_weights(sublayer, last, written)),
                (groups, new_groups),
                size,
            )


def _cut_weights(sublayer: Sublayer, last: Mapping[str, list[Matrix]], sizes: set[int]) -> Iterator[str]:
    """Yield the weights of a sublayer's last matrix and of matrices whose number of outputs is among the sizes."""
    for matrix in sublayer.matrices.values():
        if matrix in last[sublayer.label] or matrix.shape[0] in sizes:
            yield f"{matrix.name}.weight"


def _head_rules(
    sublayers: list[Sublayer], alive: list[Bool[Tensor, "groups queries"]], size: int, new_groups: int, new_queries: int
) -> dict[str, Rules]:
    """Return how attentions are cut to fewer groups and to fewer query heads per group, of width `size`."""
    groups, queries = alive[0].shape
    heads, after = groups * queries, new_groups * new_queries
    of_queries, of_keys = (heads * size, after * size), (groups * size, new_groups * size)
    of_joint = ((heads + 2 * groups) * size, (after + 2 * new_groups) * size)
    rules: dict[str, Rules] = {}
    for sublayer, own in zip(sublayers, alive, strict=True):
        chosen = _first(own.any(dim=1), new_groups)
        query_heads = torch.cat([_first(own[group], new_queries) + group * queries for group in chosen.tolist()])
        query, key = _spread(query_heads, size), _spread(chosen, size)
        joint = torch.cat([query, heads * size + key, (heads + groups) * size + key])
        # The last of two equal sizes counts; with as many keys as queries both are cut alike.
        rule = {(heads, after): query_heads, of_joint: joint, of_keys: key, of_queries: query}
        rules |= dict.fromkeys(_mixer_names(sublayer), rule)
    return rules


def _weight(weights: MaterializedWeights, matrix: Matrix) -> Tensor:
    """Return the pruned weight, (outputs, inputs)."""
    weight = weights.tensor(f"{matrix.name}.weight")
    return weight.T if matrix.is_transposed else weight


def _first(chosen: Bool[Tensor, " all"], count: int) -> Tensor:
    """Return the ascending indices of the chosen ones, filled up with others to `count`."""
    return torch.argsort(~chosen, stable=True)[:count].sort().values


def _spread(heads: Tensor, size: int) -> Tensor:
    """Return the indices of all channels of some heads."""
    return (heads[:, None] * size + torch.arange(size)).reshape(-1)


def _mixer_names(sublayer: Sublayer) -> list[str]:
    return [name for name, module in sublayer.modules.items() if module in sublayer.mixers]
