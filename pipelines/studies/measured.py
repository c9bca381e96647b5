"""What a study measures beside prompts and texts: scores that others publish, too. No torch here.

How each is computed is told in its own package.
"""

import hashlib
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.pruning.recipes import NAME
from pipelines.studies.part import Part

# Retrieval data sets that travel with the package.
SHIPPED = ("python-help",)


class RetrievalSpec(Part):
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
    folder: str | None = Field(default=None, min_length=1)
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
