"""Greedy texts of both models in every trajectory; what is measured on them belongs to `trajectories`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt
from prunescope.pipelines.evaluation.traces.decoding import Choice, DecodingResult, decode, up_to_end
from prunescope.pipelines.metrics.text_metrics import first_flip
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.studies import Study

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class VariantTexts:
    """A variant's texts of one prompt, and what the dense model makes of the variant's own text.

    Attributes:
        forced: the variant on the dense text.
        own: its own text; None if variants write none.
        flip: first step at which its own token differs from the dense one; None without such a step.
        read: the dense model on the variant's text, up to its end; None without a flip or without `own_text`.
        fork: the dense model's text after the variant's token at the flip; None without a flip or without `fork`.
    """

    forced: DecodingResult
    own: DecodingResult | None
    flip: int | None = None
    read: DecodingResult | None = None
    fork: DecodingResult | None = None


class GreedyTexts:
    """Greedy decoding of all prompts of a study, in batches, with the weights that the decoder has at the call.

    Args:
        decoder: the model.
        study: length of the texts, and trajectories.
        prompts: the prompts.
    """

    def __init__(self, decoder: Decoder, study: Study, prompts: Sequence[TokenizedPrompt]) -> None:
        self._decoder, self._study, self._prompts = decoder, study, prompts
        self._copies = 1 + study.measure.writes
        self._pads = study.generation.until == "length"

    def of_dense(self, progress: Progress) -> list[tuple[DecodingResult, ...]]:
        """Decode the dense text of every prompt in as many rows as a variant has texts, so that both round alike.

        Equal rows of a batch may still round differently: all take the token of the last one.
        """
        copies = self._copies

        def choose(logits: Tensor, texts: Sequence[int], step: int) -> Tensor:  # noqa: ARG001
            rows = {text // copies: row for row, text in enumerate(texts)}
            return logits.argmax(dim=-1)[[rows[text // copies] for text in texts]]

        least = None if self._pads else [0] * len(self._prompts)
        return self._decode("dense model", self._prompts, choose, least, copies, progress)

    def of_variant(self, name: str, dense: Sequence[Tokens], progress: Progress) -> list[VariantTexts]:
        """Decode every prompt with the weights of a variant: on the dense text, and freely if variants write.

        Args:
            name: the variant, for the progress.
            dense: the dense text of every prompt; a text does not end before it.
            progress: one step per token.
        """
        begun: list[tuple[Tokens, ...]] = [(tokens, ())[: self._copies] for tokens in dense]
        least = None if self._pads else [len(tokens) for tokens in dense]
        texts = self._after(name, self._prompts, begun, least, progress)
        return [VariantTexts(own[0], own[1] if self._copies > 1 else None) for own in texts]

    def with_dense(
        self, name: str, dense: Sequence[Tokens], texts: Sequence[VariantTexts], progress: Progress
    ) -> list[VariantTexts]:
        """Add what the dense model makes of the texts that flip: it reads them, and it writes on after the flip.

        Args:
            name: the variant, for the progress.
            dense: the dense text of every prompt.
            texts: the variant's texts of every prompt.
            progress: one step per token.
        """
        asked = {"read": "own_text", "fork": "fork"}
        measured = [field for field, name in asked.items() if name in self._study.measure.trajectories]
        found, begun = list(texts), dict[int, tuple[Tokens, ...]]()
        for index, (known, text) in enumerate(zip(dense, texts, strict=True)):
            written = text.own.tokens if text.own else ()
            flip = first_flip(up_to_end(self._decoder, known), written) if text.own else None
            if flip is not None:
                found[index] = replace(text, flip=flip)
                prefixes = {"read": up_to_end(self._decoder, written), "fork": (*known[:flip], written[flip])}
                begun[index] = tuple(prefixes[field] for field in measured)
        if begun and measured:
            prompts = [self._prompts[index] for index in begun]
            task = f"dense model after {name}"
            after = self._after(task, prompts, list(begun.values()), [0] * len(begun), progress)
            for index, own in zip(begun, after, strict=True):
                after_flip = dict(zip(measured, own, strict=True))
                read, fork = after_flip.get("read"), after_flip.get("fork")
                found[index] = replace(found[index], read=read, fork=fork)
        return found

    def _after(
        self,
        name: str,
        prompts: Sequence[TokenizedPrompt],
        begun: Sequence[tuple[Tokens, ...]],
        least: Sequence[int] | None,
        progress: Progress,
    ) -> list[tuple[DecodingResult, ...]]:
        """Decode texts that begin with given tokens, as many of every prompt, and go on greedily."""
        prefixes = [tokens for own in begun for tokens in own]

        def choose(logits: Tensor, texts: Sequence[int], step: int) -> Tensor:
            chosen = logits.argmax(dim=-1)
            tokens = [prefixes[text][step] if step < len(prefixes[text]) else -1 for text in texts]
            given = torch.tensor(tokens, device=chosen.device)
            return torch.where(given < 0, chosen, given)

        return self._decode(name, prompts, choose, least, len(begun[0]), progress)

    def _decode(
        self,
        name: str,
        prompts: Sequence[TokenizedPrompt],
        choose: Choice,
        least: Sequence[int] | None,
        copies: int,
        progress: Progress,
    ) -> list[tuple[DecodingResult, ...]]:
        """Decode `copies` texts of every prompt; `least` tokens come before an end, None lets no text end."""
        steps = self._study.generation.new_tokens

        def counted(logits: Tensor, texts: Sequence[int], step: int) -> Tensor:
            progress.advance(len(texts))
            return choose(logits, texts, step)

        stops = None if least is None else [number for number in least for _ in range(copies)]
        tokens = copies * len(prompts) * steps
        progress.start(f"{name} decodes", tokens, tokens)
        texts = decode(self._decoder, [prompt.ids for prompt in prompts], steps, counted, stops, copies)
        progress.done()
        return [tuple(texts[first : first + copies]) for first in range(0, len(texts), copies)]
