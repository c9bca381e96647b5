"""The row of table `models`: what a loaded decoder is, counted from its weights."""

from typing import Any, cast

import polars as pl

from pipelines.models.decoder import Decoder
from pipelines.models.sources import ModelIdentity


def model_row(decoder: Decoder, name: str, source: str, identity: ModelIdentity) -> pl.DataFrame:
    """Sizes and hashes of a model.

    Args:
        decoder: the loaded model.
        name: its name in the tables.
        source: what the study names.
        identity: hashes of its files.
    """
    model = cast(Any, decoder.model)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    is_tied = embedding.data_ptr() == head.data_ptr()
    snapshot = decoder.folder.parent.name == "snapshots"
    return pl.DataFrame(
        {
            "model": [name],
            "source": [source],
            # The hub's cache names a snapshot's folder after its commit.
            "revision": [decoder.folder.name if snapshot else identity.weight_hash],
            "architecture": [type(model).__name__],
            "layers": [len(decoder.layers)],
            "hidden_size": [head.shape[1]],
            "vocabulary": [head.shape[0]],
            "context_length": [decoder.context_length],
            "parameters": [sum(parameter.numel() for parameter in model.parameters())],
            "parameters_attn": [_parameters(decoder, "attn")],
            "parameters_mlp": [_parameters(decoder, "mlp")],
            "parameters_embedding": [embedding.numel() + (0 if is_tied else head.numel())],
            "is_head_tied": [is_tied],
            "final_norm": [decoder.head.norm.kind if decoder.head.norm else "none"],
            "dtype": [str(decoder.dtype).removeprefix("torch.")],
            "weight_hash": [identity.weight_hash],
            "tokenizer_hash": [identity.tokenizer_hash],
            "weight_bytes": [identity.weight_bytes],
        }
    )


def _parameters(decoder: Decoder, kind: str) -> int:
    return sum(sublayer.size for sublayer in decoder.sublayers if sublayer.kind == kind)
