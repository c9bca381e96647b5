"""Final residual streams of whole passes, in float64."""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks, quick_linears, watch_stream


@torch.inference_mode()
def final_streams(
    decoder: Decoder, tokens: Int[Tensor, "texts length"], reads: slice
) -> Float64[Tensor, "texts reads width"]:
    """Return the residual stream before the final norm at some positions, with the decoder's current weights.

    As in `DecodingResult`, it is the float64 sum of the embedding and all contributions, or the stream that the head
    reads if the model computes in fewer bits than float32. All texts have the same length.
    """
    total: list[Tensor] = []

    def begin(stream: Tensor) -> None:
        total[:] = [stream[:, reads].double()]

    def add(added: Tensor) -> None:
        total[0] += added[:, reads].to(total[0].device)

    summed = [] if decoder.is_rounded else [handle for each in decoder.sublayers for handle in each.watch(add)]
    first = decoder.final_norm if decoder.is_rounded else decoder.layers[0].module
    with hooks(watch_stream(first, begin), *summed), quick_linears(decoder.model):
        decoder.hidden(tokens)
    return total[0]
