"""Dynamic sparse no training: exchanges weights of an earlier mask until the outputs are right on average.

The mask that it begins with is an earlier recipe's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pipelines.pruning.changes import Change
from pipelines.pruning.masks import Mask, pattern_of, require_finite
from pipelines.pruning.methods.given import Given
from pipelines.pruning.recipes import DSnoT

# Weights that are worked on together: some rows in the processor's cache.
CHUNK = 2**18


def dsnot(given: Given, recipe: DSnoT) -> Change | None:
    """Zhang et al., "Dynamic Sparse No Training", 2310.08915 §3.2–3.3.

    Every row by itself, while its expected error ε = E[(W − Ŵ)x] is over `update_threshold`, and at most `max_cycle`
    times: the removed weight with the largest sign(ε)·W·E[x]/Var[x]^power comes back, with its dense value, and of the
    kept weights whose removal moves ε towards 0, sign(ε)·Ŵ·E[x] < 0, the one with the least |Ŵ|·√E[x²] goes. In an N:M
    mask both come from one group. An exchange that would leave |ε| as large as it was ends the row: the published loop
    goes on there, to and fro, until its cycles are used up.

    Returns:
        The new mask, with the values of the weights where an earlier recipe changed them; None where nothing was
        exchanged, or nothing was masked.

    Raises:
        InputError: no calibration token reached the matrix.
        ComputationError: a weight or an input is NaN or infinite.
    """
    if given.kept is None:
        return None
    inputs = given.reached(recipe.name)
    for numbers in (given.weight, given.dense, inputs.mean, inputs.second_moment):
        require_finite(numbers)
    kept, weight = given.kept.to(given.weight.device).clone(), given.weight.clone()
    mean = inputs.mean.to(weight.device)
    variance = (inputs.second_moment.to(weight.device) - mean.square()).clamp(min=0)
    # Infinite where a channel never varies: the best that can come back. NaN where it is always 0: never a candidate.
    moments = mean, mean / variance.pow(recipe.pow_of_var), inputs.second_moment.to(weight.device).sqrt()
    pattern = pattern_of(given.kept)
    block = weight.shape[1] if pattern is None else pattern[1]
    step = max(1, CHUNK // weight.shape[1])
    exchanges = 0
    for start in range(0, len(weight), step):
        part = slice(start, start + step)
        exchanges += _exchange(given.dense[part], weight[part], kept[part], moments, block, recipe)
    if not exchanges:
        return None
    given.facts["dsnot_exchanges"] = given.facts.get("dsnot_exchanges", 0) + exchanges
    is_dense = torch.equal(weight[kept], given.dense[kept])
    return Change.masked(kept) if is_dense else Change.valued(weight, kept)


def _exchange(
    dense: Float[Tensor, "rows in"],
    weight: Float[Tensor, "rows in"],
    kept: Mask,
    moments: tuple[Float[Tensor, " in"], Float[Tensor, " in"], Float[Tensor, " in"]],
    block: int,
    recipe: DSnoT,
) -> int:
    """Exchanges weights of some rows in place; `kept` is changed, and `weight` where it is kept. Returns how many."""
    mean, gain, rms = moments
    adds = dense * mean  # what a weight that comes back adds to its row's mean output
    error = (adds - weight * mean).sum(dim=1)
    wanted = dense * gain
    active = (error.abs() > recipe.update_threshold).nonzero().squeeze(1)
    exchanges = 0
    for _ in range(recipe.max_cycle):
        if not len(active):
            break
        sign = error[active].sign()[:, None]
        now, there = weight[active] * mean, kept[active]
        goes = there & (sign * now < 0)
        least = (weight[active].abs() * rms).masked_fill(~goes, torch.inf).unflatten(1, (-1, block)).min(dim=2)
        comes = ~there & (sign * adds[active] > 0)
        # Only into groups from which one can go.
        comes &= least.values.isfinite().repeat_interleave(block, dim=1)
        best = (sign * wanted[active]).masked_fill(~comes, -torch.inf).max(dim=1)
        grown = best.indices
        group = grown // block
        pruned = group * block + least.indices.gather(1, group[:, None]).squeeze(1)
        each = torch.arange(len(active), device=active.device)
        after = error[active] - adds[active, grown] + now[each, pruned]
        done = comes[each, grown] & (after.abs() < error[active].abs())
        active, grown, pruned = active[done], grown[done], pruned[done]
        weight[active, grown] = dense[active, grown]
        kept[active, grown] = True
        kept[active, pruned] = False
        error[active] = after[done]
        exchanges += len(active)
        active = active[error[active].abs() > recipe.update_threshold]
    return exchanges
