"""Settings of a study's evaluations of whole models: tasks, retrieval, speed. No torch here."""

import hashlib
from typing import Literal, Self

from pydantic import Field, model_validator

from prunescope.pipelines.core.frozen_model import (
    MAX_NEW_TOKENS,
    MAX_RECORDS,
    MAX_STEPS,
    MAX_TOKENS,
    MAX_TOTAL_TOKENS,
    NAME,
    SOURCE,
    FrozenModel,
)
from prunescope.pipelines.studies.names import with_name
from prunescope.pipelines.studies.prompts import FIELD, FIELDS

# Retrieval data sets in the package.
SHIPPED = ("python-help",)


class TaskSpec(FrozenModel):
    """A task that every variant is scored on, by lm-evaluation-harness.

    Attributes:
        name: name in every table, and the definition if `definition` is missing. In YAML the name or the definition
            alone is enough.
        definition: a shipped task (`arc_challenge`, `openbookqa`, `boolq`, `wikitext2`, `gsm8k`, `humaneval`,
            `humaneval_choice`; with fetched samples `mbpp`, `narrativeqa`), the name of a task or group of lm-eval
            (`lm_eval:NAME` if a shipped one has the same name), or the path of a YAML in lm-eval's form.
        data: a file (.jsonl, .csv and so on, as in prompt sets). If no task is called `name`, it holds your own
            questions, otherwise samples that replace those of the shipped task. None takes the samples in the package.
        question: field of your own `data` that holds the question, if no definition reads it. This field and the next
            two are found by their usual names by default.
        options: field with the list of options, or one field per option; none if the model answers in its own words.
        answer: field with the right answer: a text, a number, or an option's index from 0, letter or text.
        samples: number of samples, from the first; None takes all.
        shots: worked examples before every question; None takes the definition's number.
        seed: seed for drawing worked examples; the harness's own by default.
        max_new_tokens: maximum number of generated tokens; None takes the definition's.
        context: tokens per window of a scored text; None takes the model's whole context.
        allow_functions: whether a user's YAML may name Python functions (`!function`), and any definition may name a
            metric of the `evaluate` library; their code runs outside the sandbox.
    """

    name: NAME = Field(examples=["my-task"])
    definition: SOURCE | None = Field(default=None, examples=["my-task.yaml"])
    data: SOURCE | None = Field(default=None, examples=["my-task.jsonl"])
    question: FIELD | None = Field(default=None, exclude_if=lambda name: name is None, examples=["question"])
    options: FIELDS = Field(default=(), exclude_if=lambda names: not names, examples=[["choices"]])
    answer: FIELD | None = Field(default=None, exclude_if=lambda name: name is None, examples=["answer"])
    samples: int | None = Field(default=None, ge=1, le=MAX_RECORDS, examples=[100])
    shots: int | None = Field(default=None, ge=0, le=1_000, examples=[5])
    seed: int = Field(default=1234, ge=0, lt=2**63)
    max_new_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS, examples=[256])
    context: int | None = Field(default=None, ge=2, le=MAX_TOKENS, examples=[2048])
    allow_functions: bool = False

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, fields: object) -> object:
        if isinstance(fields, str) and not fields.endswith((".yaml", ".yml")):
            return {"name": fields}
        return with_name(with_name(fields, "definition"), "data")

    @model_validator(mode="after")
    def _fields_are_of_data(self) -> Self:
        named = next((key for key in ("question", "options", "answer") if getattr(self, key)), None)
        if named and (self.data is None or self.definition is not None):
            raise ValueError(f"`{named}` is a field of your own `data`; give the file, and no `definition`")
        return self

    @property
    def source(self) -> str:
        """Return the definition, or else the name."""
        return self.definition or self.name


class RetrievalSpec(FrozenModel):
    """A retrieval data set: queries find documents by the similarity of their embeddings.

    Attributes:
        name: name in every table. Without `folder` it is the name of a shipped data set (`python-help`); with a folder
            it is made from that by default. In YAML a shipped data set's name alone is enough.
        folder: a folder in BEIR's form: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.
        split: split of the judgements.
        pooling: how a text's last states become its embedding: `last` takes the state of the end token, which is
            appended to every text (2401.00368 §3.2); `mean` averages all. `auto` is `last` for a causal model, else
            `mean`.
        query_prefix: text before every query.
        document_prefix: text before every document.
        max_length: maximum tokens per text, including special ones; longer texts are truncated.
        normalise: whether texts are compared by cosine, else by inner product.
        max_queries: number of judged queries, from the first; None takes all.
        max_documents: number of documents: those relevant to these queries, then the first of the others. Scores then
            differ from those of the whole data set.
        keep_embeddings: whether to store every text's embedding in table `retrieval_embeddings`, 2 bytes per number.
    """

    name: NAME = Field(examples=["python-help"])
    folder: SOURCE | None = Field(default=None, examples=["beir/scifact"])
    split: NAME = "test"
    pooling: Literal["auto", "last", "mean"] = "auto"
    query_prefix: str = ""
    document_prefix: str = ""
    max_length: int = Field(default=256, ge=3, le=MAX_TOKENS)
    normalise: bool = True
    max_queries: int | None = Field(default=None, ge=1, le=MAX_RECORDS, examples=[100])
    max_documents: int | None = Field(default=None, ge=1, le=MAX_RECORDS, examples=[1000])
    keep_embeddings: bool = True

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, fields: object) -> object:
        return {"name": fields} if isinstance(fields, str) else with_name(fields, "folder")

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.folder is None and self.name not in SHIPPED:
            raise ValueError(f"no data set {self.name!r} is shipped (there is {', '.join(SHIPPED)}); give its `folder`")
        return self

    @property
    def hash(self) -> str:
        """Return the SHA-256 of all fields except `folder`; the files' contents are hashed elsewhere."""
        return hashlib.sha256(self.model_dump_json(exclude={"folder"}).encode()).hexdigest()

    @property
    def what(self) -> str:
        """Return its description for messages."""
        return f"retrieval {self.name!r}"


class SpeedSpec(FrozenModel):
    """A timing of prefill and generation for every variant, alternating with the dense model.

    Attributes:
        batch: sequences per batch.
        length: tokens per prompt; they are random, because speed does not depend on them.
        new_tokens: generated tokens per sequence, including the first.
        repeats: timings per model; their median is reported.
    """

    batch: int = Field(default=1, ge=1, le=10_000)
    length: int = Field(default=128, ge=1, le=MAX_TOKENS)
    new_tokens: int = Field(default=32, ge=2, le=MAX_NEW_TOKENS)
    repeats: int = Field(default=5, ge=1, le=MAX_STEPS)

    @model_validator(mode="after")
    def _fits_memory(self) -> Self:
        if self.batch * (self.length + self.new_tokens) > MAX_TOTAL_TOKENS:
            raise ValueError(
                f"`batch` × (`length` + `new_tokens`) is over {MAX_TOTAL_TOKENS:,} tokens; lower one of them"
            )
        return self

    @property
    def what(self) -> str:
        """Return its description for messages."""
        return f"batch {self.batch}, length {self.length}, new_tokens {self.new_tokens}"
