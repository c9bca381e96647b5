"""A decoder in which two sublayers undo each other."""

from pathlib import Path

import torch

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from tests.tiny_models import save_tiny


def cancelling_decoder(folder: Path) -> Decoder:
    """Return a Llama whose second MLP adds the opposite of its first one.

    All contributions are small beside the embedding, so that both MLPs read nearly the same stream; the second has the
    first one's weights, and the opposite ones on its way out. The third MLP adds less than either, the first and the
    last attention more; the attention between the two adds nothing.
    """
    decoder = load_decoder(save_tiny(folder / "planted"))
    first, second, third = (layer.module for layer in decoder.layers)
    with torch.no_grad():
        decoder.model.get_input_embeddings().weight.mul_(100)
        second.mlp.load_state_dict(first.mlp.state_dict())
        second.post_attention_layernorm.load_state_dict(first.post_attention_layernorm.state_dict())
        for mlp, factor in ((first.mlp, 0.4), (second.mlp, -0.4), (third.mlp, 0.2)):
            mlp.down_proj.weight.mul_(factor)
        for attn, factor in ((first.self_attn, 1.5), (second.self_attn, 0.0), (third.self_attn, 1.5)):
            attn.o_proj.weight.mul_(factor)
    return decoder
