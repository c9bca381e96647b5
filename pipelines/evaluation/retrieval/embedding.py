"""Texts as vectors: tokens, last states of whatever the decoder wears, and one vector pooled from a text's states.

Which texts, and what their vectors are compared with, is the caller's business.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.retrieval.pooling import Pooling, pooled
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

# A batch holds at most so many texts, and tokens with their padding; texts of a batch have about the same length.
BATCH_TEXTS, BATCH_TOKENS = 64, 4096
# The tokenizer is given so many texts at once.
_TOKENIZED = 1000


def require_fits(spec: RetrievalSpec, context_length: int) -> None:
    """Refuses texts that are cut at more tokens than the model reads.

    Raises:
        InputError: names the key.
    """
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
    """Token ids of texts, cut at `max_length`, special tokens included.

    Args:
        texts: with their prefixes.
        tokenizer: the model's own.
        max_length: tokens of a text, at most.
        pooling: with `last` every text ends with the tokenizer's end token, cut or not; so does, with `mean`, one
            that has no token at all.

    Raises:
        InputError: an end token is needed and the tokenizer has none.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    found: list[tuple[int, ...]] = []
    for first in range(0, len(texts), _TOKENIZED):
        part = list(texts[first : first + _TOKENIZED])
        for ids in tokenizer(part, truncation=True, max_length=max_length, return_attention_mask=False).input_ids:
            if pooling == "last" or not ids:
                if end is None:
                    raise InputError("retrieval: the tokenizer has no end token to read a text's meaning from")
                ids = ids if ids and ids[-1] == end else [*ids[: max_length - 1], end]  # noqa: PLW2901
            found.append(tuple(ids))
    return found


def batches(lengths: Sequence[int], most_texts: int, most_tokens: int) -> Iterator[list[int]]:
    """Indices of texts that run together, the shortest first: little padding, and always the same batches."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == most_texts or (len(batch) + 1) * lengths[index] > most_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def embed(
    decoder: Decoder, texts: Sequence[tuple[int, ...]], pooling: Pooling, progress: Progress = SILENT
) -> Float[Tensor, "texts width"]:
    """Vectors of texts in float32, pooled in float64 from the states behind the final norm.

    Texts that are alike share one, so that they tie.

    Args:
        decoder: the model, as whatever variant it computes now.
        texts: token ids, at least one each.
        pooling: `last` or `mean`.
        progress: one step a batch.

    Raises:
        InputError: the model reads both ways and does not ignore padding.
        ComputationError: a state is NaN or infinite.
    """
    different = list(dict.fromkeys(texts))
    most_texts, most_tokens = decoder.at_once(BATCH_TEXTS), decoder.at_once(BATCH_TOKENS)
    runs = list(batches([len(ids) for ids in different], most_texts, most_tokens))
    vectors: list[Tensor] = [torch.empty(0)] * len(different)
    progress.start("embed", len(runs))
    for run in runs:
        lengths = torch.tensor([len(different[index]) for index in run], device=decoder.device)
        tokens = torch.zeros(len(run), int(lengths.max()), dtype=torch.long)
        tokens += decoder.padding
        for row, index in enumerate(run):
            tokens[row, : len(different[index])] = torch.tensor(different[index])
        states = decoder.padded(tokens.to(decoder.device), lengths)
        for index, vector in zip(run, pooled(states, lengths, pooling).float().cpu(), strict=True):
            vectors[index] = vector
        progress.advance()
    progress.done()
    place = {ids: index for index, ids in enumerate(different)}
    found = torch.stack(vectors)[[place[ids] for ids in texts]]
    if not bool(torch.isfinite(found).all()):
        raise ComputationError("an embedding is NaN or infinite")
    return found
