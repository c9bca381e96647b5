"""Shift of the final stream when a single sublayer of a variant is dense again and the variant runs on top."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.evaluation.traces.activation_capture import States, replay, run_known
from prunescope.pipelines.evaluation.traces.isolated import IsolatedEffect
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.float64_pass import cast_floats
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant


@torch.inference_mode()
def restoring_shifts(
    decoder: Decoder, isolation: IsolatedEffect, variant: Variant, tokens: Int[Tensor, "1 tokens"]
) -> dict[str, States]:
    """Return how much the final stream of a variant moves if one of its changed sublayers is dense again, by label.

    It is scope `isolated` with the two models exchanged: the variant's layers run on top of one dense sublayer. The
    shifts are at all positions, before the final norm, float32, computed in the model's own type.
    """
    with apply_variant(decoder, variant, skips=False):
        pruned = run_known(decoder, tokens, 0, by_token_from=None, keep_calls=True)
    moved = {}
    for sublayer in decoder.sublayers:
        if variant.moves(sublayer):
            # Noise may have run the variant in another type.
            recorded, whole = pruned.calls[sublayer.label], pruned.whole[sublayer.label]
            calls = [replace(call, parts=cast_floats(call.parts, decoder.dtype)) for call in recorded]
            with sublayer.on_device():
                moved[sublayer.label, "dense"] = (replay(sublayer, calls, {}, 0).to(whole.device) - whole).float()
    with apply_variant(decoder, variant, skips=False):
        return {label: shift for (label, _), shift in isolation.shifts(pruned, moved).items()}
