"""What a study measures of whole models beside prompts and texts: tasks, retrieval, speed. No torch here.

How each is computed is told in `prunescope.pipelines.evaluation.tasks`, `prunescope.pipelines.evaluation.retrieval` and `prunescope.pipelines.evaluation.speed`.
"""

import hashlib
from typing import Literal, Self

from pydantic import Field, model_validator

from prunescope.pipelines.core.frozen_model import NAME, SOURCE, FrozenModel

# Retrieval data sets that travel with the package.
SHIPPED = ("python-help",)


class TaskSpec(FrozenModel):
    """A task that every variant is scored on, by lm-evaluation-harness.

    Attributes:
        name: name in every table; also what is asked, where there is no `definition`.
        definition: a shipped task (`arc_challenge`, `openbookqa`, `boolq`, `wikitext2`, `gsm8k`, `humaneval`; over
            samples that are fetched `humaneval_full`, `mbpp`, `narrativeqa`), the name of a task or group of lm-eval
            (`lm_eval:NAME` where a shipped one has the same name), or the path of a YAML in lm-eval's form.
        data: a file in the form of the shipped task's own, which it takes the place of; None is the small subset that
            travels with the package.
        samples: the first so many are asked; None asks all.
        shots: worked examples in front of every question; None as the definition says.
        seed: of the draw of worked examples; the harness's own by default.
        max_new_tokens: at most so many tokens are written; None as the definition says.
        context: tokens of a window of a text that is read; None is the model's whole context.
        allow_functions: whether a YAML of the user's may name Python functions (`!function`), and any definition a
            metric of the `evaluate` library; their code runs unconfined.
    """

    name: NAME
    definition: SOURCE | None = None
    data: SOURCE | None = None
    samples: int | None = Field(default=None, ge=1)
    shots: int | None = Field(default=None, ge=0)
    seed: int = Field(default=1234, ge=0, lt=2**63)
    max_new_tokens: int | None = Field(default=None, ge=1)
    context: int | None = Field(default=None, ge=2)
    allow_functions: bool = False

    @property
    def asked(self) -> str:
        """What the task is asked by: its definition, else its name."""
        return self.definition or self.name


class RetrievalSpec(FrozenModel):
    """A retrieval data set: queries find documents by the similarity of their embeddings.

    Attributes:
        name: name in every table; of a shipped data set (`python-help`) where there is no `folder`.
        folder: a folder in BEIR's form: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.
        split: which judgements are read.
        pooling: what becomes of a text's last states: `last` takes that of the end token, which is put behind every
            text (2401.00368 §3.2), `mean` their average. `auto` is `last` for a model that reads left to right and
            `mean` for one that reads both ways.
        query_prefix: stands before every query.
        document_prefix: stands before every document.
        max_length: tokens of a text, special ones included; what is longer is cut at its end.
        normalise: whether texts are compared by cosine, else by inner product.
        max_queries: only the first so many judged queries; None takes all.
        max_documents: only so many documents: the relevant ones of those queries, then the first others. Scores are
            then no longer those of the whole data set.
        keep_embeddings: whether the table `retrieval_embeddings` gets every text's embedding, 2 bytes a number.
    """

    name: NAME
    folder: SOURCE | None = None
    split: NAME = "test"
    pooling: Literal["auto", "last", "mean"] = "auto"
    query_prefix: str = ""
    document_prefix: str = ""
    max_length: int = Field(default=256, ge=3)
    normalise: bool = True
    max_queries: int | None = Field(default=None, ge=1)
    max_documents: int | None = Field(default=None, ge=1)
    keep_embeddings: bool = True

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.folder is None and self.name not in SHIPPED:
            raise ValueError(f"no data set {self.name!r} is shipped (there is {', '.join(SHIPPED)}); give its `folder`")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 over all fields but the place of the files, whose contents count."""
        return hashlib.sha256(self.model_dump_json(exclude={"folder"}).encode()).hexdigest()

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"retrieval {self.name!r}"


class SpeedSpec(FrozenModel):
    """How fast every variant reads and writes, timed in turn with the dense model.

    Attributes:
        batch: sequences that run together.
        length: tokens of every prompt; they are drawn at random, for speed does not depend on which they are.
        new_tokens: tokens that every sequence writes, the first one among them.
        repeats: timings of each side, of which the median counts.
    """

    batch: int = Field(default=1, ge=1)
    length: int = Field(default=128, ge=1)
    new_tokens: int = Field(default=32, ge=2)
    repeats: int = Field(default=5, ge=1)

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"batch {self.batch}, length {self.length}, new_tokens {self.new_tokens}"
