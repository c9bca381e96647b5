"""Final residual streams of whole passes, in float64."""

from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks, quick_linears, stream_of


@torch.inference_mode()
def final_streams(
    decoder: Decoder, tokens: Int[Tensor, "texts length"], reads: slice
) -> Float64[Tensor, "texts reads width"]:
    """Return the residual stream before the final norm at some positions, with the decoder's current weights.

    As in `DecodingResult`, it is the float64 sum of the embedding and all contributions, or the stream that the head
    reads if the model computes in fewer bits than float32. All texts have the same length.
    """
    total: list[Tensor] = []

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        total[:] = [stream_of(args, kwargs)[:, reads].double()]

    def add(added: Tensor) -> None:
        total[0] += added[:, reads].to(total[0].device)

    summed = [] if decoder.is_rounded else [handle for each in decoder.sublayers for handle in each.watch(add)]
    first = decoder.final_norm if decoder.is_rounded else decoder.layers[0].module
    with hooks(first.register_forward_pre_hook(begin, with_kwargs=True), *summed), quick_linears(decoder.model):
        decoder.hidden(tokens)
    return total[0]
