"""Calibration settings of a study or of one recipe. No torch here."""

from typing import Literal, Self

from pydantic import Field, model_validator

from prunescope.pipelines.core.frozen_model import MAX_TOKENS, FrozenModel
from prunescope.pipelines.corpora.hub_datasets import TEXT_SOURCE

# 250 times the usual 128 × 2,048; a plan draws the tokens to count them.
_MAX_TOTAL = 2**26


class CalibrationSpec(FrozenModel):
    """Calibration tokens: `sequences` × `length` tokens of a text, drawn with `seed`.

    Attributes:
        source: `c4` (300 of its documents), `wikitext2`, `embedded` (the help topics of the running Python; another
            version of Python prunes other weights), the path of a text, JSON or JSONL file, or a data set of the hub or
            in a folder, `hf:NAME[:CONFIG]:SPLIT[:COLUMN]`, of which the first 10,000 documents are read.
        sequences: number of windows.
        length: tokens per window.
        seed: seed of the draw, from 0 to 2⁶³ − 1.
        documents: `joined` draws windows from the concatenation of all documents; `single` draws a document that is
            long enough and a window inside it, as SparseGPT and Wanda do with C4.
        template: whether to put each document into the model's chat template as a user message.
        dtype: dtype of weights and activations in the calibration passes; `model` is the study's. Statistics are
            always summed in float32 and float64.
    """

    source: TEXT_SOURCE = "c4"
    sequences: int = Field(default=16, ge=1, le=100_000)
    length: int = Field(default=256, ge=2, le=MAX_TOKENS)
    seed: int = Field(default=0, ge=0, lt=2**63)
    documents: Literal["joined", "single"] = "joined"
    template: bool = False
    dtype: Literal["model", "float32", "bfloat16"] = "model"

    @model_validator(mode="after")
    def _fits_memory(self) -> Self:
        if self.sequences * self.length > _MAX_TOTAL:
            raise ValueError(f"`sequences` × `length` is over {_MAX_TOTAL:,} tokens; lower one of them")
        return self
