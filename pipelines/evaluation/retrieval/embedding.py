"""Embedding of texts: tokenization, batches, and vectors pooled from the decoder's last states."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.batching import batched
from prunescope.pipelines.evaluation.retrieval.pooling import Pooling, pooled
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

# Maximum texts and maximum tokens (padding included) per batch.
BATCH_TEXTS, BATCH_TOKENS = 64, 4096
# Number of texts per call of the tokenizer.
_TOKENIZER_TEXTS = 1000


def require_fits(spec: RetrievalSpec, context_length: int) -> None:
    """Raise an InputError if `max_length` exceeds the model's context."""
    if spec.max_length > context_length:
        raise InputError(
            f"{spec.what}: `max_length` {spec.max_length} is over the model's context of {context_length} "
            "tokens; lower it"
        )


def tokens_of(
    texts: Sequence[str],
    tokenizer: Any,  # noqa: ANN401 (any tokenizer)
    max_length: int,
    pooling: Pooling,
) -> list[tuple[int, ...]]:
    """Return the token ids of texts with their prefixes, cut to `max_length`, special tokens included.

    With the pooling `last`, every text ends with the tokenizer's end token, even if it is cut. With `mean`, only a text
    without tokens gets one.

    Raises:
        InputError: an end token is needed and the tokenizer has none.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    tokens: list[tuple[int, ...]] = []
    for first in range(0, len(texts), _TOKENIZER_TEXTS):
        part = list(texts[first : first + _TOKENIZER_TEXTS])
        for ids in tokenizer(part, truncation=True, max_length=max_length, return_attention_mask=False).input_ids:
            if pooling == "last" or not ids:
                if end is None:
                    raise InputError("retrieval: the tokenizer has no end token, whose state would be the embedding")
                ids = ids if ids and ids[-1] == end else [*ids[: max_length - 1], end]  # noqa: PLW2901
            tokens.append(tuple(ids))
    return tokens


def batches(lengths: Sequence[int], max_texts: int, max_tokens: int) -> Iterator[list[int]]:
    """Yield batches of text indices in order of length, which keeps padding small and batches reproducible."""
    return batched(
        sorted(range(len(lengths)), key=lengths.__getitem__),
        lambda batch, index: len(batch) < max_texts and (len(batch) + 1) * lengths[index] <= max_tokens,
    )


@torch.inference_mode()
def embed(
    decoder: Decoder, texts: Sequence[tuple[int, ...]], pooling: Pooling, progress: Progress = SILENT
) -> Float[Tensor, "texts width"]:
    """Return vectors of texts in float32, pooled in float64 from the states after the final norm.

    Equal texts share one vector and so tie. A text has at least one token. The progress advances once per batch.

    Raises:
        InputError: the model is bidirectional and does not ignore padding.
        ComputationError: a state is NaN or infinite.
    """
    distinct = list(dict.fromkeys(texts))
    max_texts, max_tokens = decoder.at_once(BATCH_TEXTS), decoder.at_once(BATCH_TOKENS)
    runs = list(batches([len(ids) for ids in distinct], max_texts, max_tokens))
    vectors: dict[tuple[int, ...], Tensor] = {}
    progress.start("embed", len(runs), sum(map(len, distinct)))
    for run in runs:
        batch = [distinct[index] for index in run]
        lengths = torch.tensor([len(ids) for ids in batch], device=decoder.device)
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in batch], True, decoder.padding)
        states = decoder.padded(tokens.to(decoder.device), lengths)
        vectors |= zip(batch, pooled(states, lengths, pooling).float().cpu(), strict=True)
        progress.advance()
    progress.done()
    embeddings = torch.stack([vectors[ids] for ids in texts])
    if not bool(torch.isfinite(embeddings).all()):
        raise ComputationError("an embedding is NaN or infinite")
    return embeddings
