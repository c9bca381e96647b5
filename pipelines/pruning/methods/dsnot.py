"""Dynamic sparse no training: exchange of kept and removed weights of an earlier mask."""

from prunescope.pipelines.pruning.masks import pattern_of, require_finite
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext, Methods
from prunescope.pipelines.pruning.methods.prune_and_grow import Channels, exchange
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import DSnoT


def dsnot(context: MatrixContext, recipe: DSnoT) -> WeightDelta | None:
    """Exchange weights until every row's mean output is close to the dense one (Zhang et al., 2310.08915 §3.2–3.3).

    A row is changed at most `max_cycle` times, while its expected error ε = E[(W − Ŵ)x] exceeds `update_threshold`. The
    removed weight with the largest sign(ε)·W·E[x]/Var[x]^power returns with its dense value. Among the kept weights
    whose removal reduces ε (sign(ε)·Ŵ·E[x] < 0), the one with the least |Ŵ|·√E[x²] is removed. In an N:M mask both are
    in one group. A row ends at an exchange that would not reduce |ε|, while the published loop goes back and forth
    until its cycles are used up. The result is None if nothing was exchanged or masked.

    Raises:
        InputError: no calibration token reached the matrix.
        ComputationError: a weight or an input is NaN or infinite.
    """
    if context.mask is None:
        return None
    inputs = context.require_inputs(recipe.name)
    for values in (context.weight, context.dense, inputs.mean, inputs.second_moment):
        require_finite(values)
    mean, second = inputs.mean, inputs.second_moment
    variance = (second - mean.square()).clamp(min=0)
    # Infinite for a constant channel, whose weights return first; NaN for a channel of zeros, whose weights never do.
    channels = Channels(mean, mean / variance.pow(recipe.pow_of_var), second.sqrt())
    pattern = pattern_of(context.mask)
    block = context.weight.shape[1] if pattern is None else pattern[1]
    kept = context.mask.to(context.weight.device)
    weight, kept, exchanges = exchange(
        context.dense, context.weight, kept, channels, block, recipe.max_cycle, recipe.update_threshold
    )
    if not exchanges:
        return None
    context.add_fact("dsnot_exchanges", exchanges)
    return WeightDelta.valued(weight, kept)


METHODS: Methods = {DSnoT: dsnot}
