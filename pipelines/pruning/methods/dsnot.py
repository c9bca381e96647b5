"""Dynamic sparse no training: exchanges weights of an earlier mask until the outputs are right on average.

The mask that it begins with is an earlier recipe's; the loop itself stands in `exchange.py`.
"""

from prunescope.pipelines.pruning.masks import pattern_of, require_finite
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext
from prunescope.pipelines.pruning.methods.prune_and_grow import Channels, exchange
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import DSnoT


def dsnot(given: MatrixContext, recipe: DSnoT) -> WeightDelta | None:
    """Zhang et al., "Dynamic Sparse No Training", 2310.08915 §3.2–3.3.

    Every row by itself, while its expected error ε = E[(W − Ŵ)x] is over `update_threshold`, and at most `max_cycle`
    times: the removed weight with the largest sign(ε)·W·E[x]/Var[x]^power comes back, with its dense value, and of the
    kept weights whose removal moves ε towards 0, sign(ε)·Ŵ·E[x] < 0, the one with the least |Ŵ|·√E[x²] goes. In an N:M
    mask both come from one group. An exchange that would leave |ε| as large as it was ends the row: the published loop
    goes on there, to and fro, until its cycles are used up.

    Returns:
        The new mask and the weights in it; None where nothing was exchanged, or nothing was masked.

    Raises:
        InputError: no calibration token reached the matrix.
        ComputationError: a weight or an input is NaN or infinite.
    """
    if given.kept is None:
        return None
    inputs = given.reached(recipe.name)
    for numbers in (given.weight, given.dense, inputs.mean, inputs.second_moment):
        require_finite(numbers)
    device = given.weight.device
    mean, second = inputs.mean.to(device), inputs.second_moment.to(device)
    variance = (second - mean.square()).clamp(min=0)
    # Infinite where a channel never varies: the best that can come back. NaN where it is always 0: never a candidate.
    channels = Channels(mean, mean / variance.pow(recipe.pow_of_var), second.sqrt())
    pattern = pattern_of(given.kept)
    block = given.weight.shape[1] if pattern is None else pattern[1]
    weight, kept, exchanges = exchange(
        given.dense, given.weight, given.kept.to(device), channels, block, recipe.max_cycle, recipe.update_threshold
    )
    if not exchanges:
        return None
    given.facts["dsnot_exchanges"] = given.facts.get("dsnot_exchanges", 0) + exchanges
    return WeightDelta.valued(weight, kept)
