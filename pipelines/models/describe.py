"""Descriptions of a loaded decoder: its row of table `models`, and all that discovery found."""

from typing import Any, cast

import polars as pl
from torch import nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sources import IN_MEMORY, ModelIdentity, weight_format
from prunescope.pipelines.models.sublayer import Branch, has_matrix


def model_row(decoder: Decoder, name: str, source: str, identity: ModelIdentity) -> pl.DataFrame:
    """Return the row of table `models`, with name and source from the study."""
    model = cast(Any, decoder.model)
    embedding, untied = model.get_input_embeddings().weight, _untied_head(decoder)
    snapshot = decoder.folder.parent.name == "snapshots"
    dtype = str(decoder.dtype).removeprefix("torch.")
    return pl.DataFrame(
        {
            "model": [name],
            "source": [source],
            # The hub's cache names a snapshot's folder after its commit.
            "revision": [decoder.folder.name if snapshot else identity.weight_hash],
            "architecture": [type(model).__name__],
            "layers": [len(decoder.layers)],
            "hidden_size": [decoder.width],
            "vocabulary": [decoder.head.weight.shape[0] if decoder.output else decoder.vocabulary],
            "context_length": [decoder.context_length],
            "parameters": [sum(parameter.numel() for parameter in model.parameters())],
            "parameters_attn": [_parameters(decoder, "attn")],
            "parameters_mlp": [_parameters(decoder, "mlp")],
            "parameters_embedding": [embedding.numel() + (0 if untied is None else untied.weight.numel())],
            "is_head_tied": [decoder.output is not None and untied is None],
            "final_norm": [decoder.head.norm.kind if decoder.output and decoder.head.norm else "none"],
            "dtype": [dtype],
            "weight_hash": [identity.weight_hash],
            "tokenizer_hash": [identity.tokenizer_hash],
            "weight_bytes": [identity.weight_bytes],
            "weight_format": [dtype if source.startswith(IN_MEMORY) else weight_format(source, decoder.folder)],
        }
    )


def _parameters(decoder: Decoder, kind: str) -> int:
    return sum(sublayer.size for sublayer in decoder.sublayers if sublayer.kind == kind)


def _untied_head(decoder: Decoder) -> nn.Linear | None:
    """Return the LM head if it has its own weights; None if it is tied to the embedding or missing."""
    model = cast(Any, decoder.model)
    head = model.get_output_embeddings()
    is_untied = head is not None and head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    return cast(nn.Linear, head) if is_untied else None


def structure_rows(decoder: Decoder) -> pl.DataFrame:
    """Return what discovery found and proved, part by part, then the shares of the parameters.

    `form` is how a part adds to the stream, or its formula. `matrices` is the number that a recipe can mask.
    A tied head has no parameters of its own. Norms and learned positions count as `other`.
    """
    model = cast(Any, decoder.model)
    names = {module: name for name, module in model.named_modules()}
    embedding, untied = model.get_input_embeddings(), _untied_head(decoder)
    total = sum(parameter.numel() for parameter in model.parameters())
    rows: list[dict[str, object]] = []

    def add(part: str, module: str, form: str, order: str | None = None, **counts: int) -> None:
        parameters = counts.get("parameters")
        share = None if parameters is None else parameters / total
        row = {"part": part, "module": module, "form": form, "order": order, "matrices": counts.get("matrices")}
        rows.append({**row, "parameters": parameters, "share": share})

    size = f"{len(decoder.layers)} layers, width {decoder.width}, vocabulary {decoder.vocabulary}"
    add("model", type(model).__name__, f"{size}, context {decoder.context_length}", parameters=total)
    for layer in decoder.layers:
        order = "parallel" if layer.is_parallel else "sequential"
        for sublayer in layer.sublayers:
            form = " + ".join(_form(part, names) for part in sublayer.parts)
            if sublayer.unread:
                form += f"; no masks: {', '.join(sublayer.unread)}"
            counts = {"matrices": len(sublayer.matrices), "parameters": sublayer.size}
            add(sublayer.label, sublayer.name, form, order, **counts)
    head_size = sum(parameter.numel() for parameter in untied.parameters()) if untied is not None else 0
    if decoder.output is not None:
        head = decoder.head
        if head.norm is not None:
            norm = sum(parameter.numel() for parameter in decoder.final_norm.parameters())
            add("final norm", names[decoder.final_norm], f"{head.norm.kind}, eps {head.norm.eps:g}", parameters=norm)
        traits = ["tied" if untied is None else "own weights", *(["bias"] if head.bias is not None else [])]
        traits += [f"scale {head.scale:g}"] if head.scale != 1 else []
        traits += [f"cap {head.cap:g}"] if head.cap is not None else []
        add("head", names[model.get_output_embeddings()], ", ".join(traits), parameters=head_size)
    add("reads", names[decoder.trunk], "left to right" if decoder.is_causal else "both ways")
    add("cache", names[decoder.trunk], decoder.cache_refusal or "token by token gives the states of a whole pass")
    shares = {
        "attention": _parameters(decoder, "attn"),
        "MLP": _parameters(decoder, "mlp"),
        "embeddings": int(embedding.weight.numel()),
        "LM head": head_size,
    }
    for name, count in (*shares.items(), ("other", total - sum(shares.values()))):
        add("share", name, "of all parameters", parameters=count)
    return pl.DataFrame(rows, schema_overrides={"order": pl.String, "matrices": pl.Int64, "parameters": pl.Int64})


def _form(part: Branch, names: dict[Any, str]) -> str:
    """Describe how a branch adds to the stream."""
    words = []
    if part.residual is not None:
        words.append("residual inside")
    if part.is_post_norm:
        words.append(f"stream normed by {names[part.chain[-1]].rpartition('.')[2]}")
    elif not has_matrix(part.chain[-1]):
        words.append(f"followed by {names[part.chain[-1]].rpartition('.')[2]}")
    if part.multiplier != 1:
        words.append(f"multiplier {part.multiplier:g}")
    return ", ".join(words) or "plain"
