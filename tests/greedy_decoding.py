"""Greedy decoding for tests and benchmarks."""

from collections.abc import Sequence

from prunescope.pipelines.evaluation.traces.decoding import DecodingResult, decode
from prunescope.pipelines.models.decoder import Decoder


def decode_greedily(
    decoder: Decoder, prompts: Sequence[tuple[int, ...]], steps: int, least: Sequence[int] | None = None
) -> list[DecodingResult]:
    """Decode all prompts greedily; equal logits go to the lower token id. Arguments as of `decode`."""
    return decode(decoder, prompts, steps, lambda logits, texts, step: logits.argmax(dim=-1), least)
