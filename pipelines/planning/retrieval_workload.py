"""How much a retrieval data set gives a model to do, before any weight is read.

Every line of it is read, so that what is wrong is told now; only its first texts are tokenized.
"""

from dataclasses import dataclass
from typing import Any

from prunescope.pipelines.evaluation.retrieval.beir_data import read_collection, texts_of
from prunescope.pipelines.evaluation.retrieval.embedding import tokens_of
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

_LOOKED_AT = 500


@dataclass(frozen=True)
class RetrievalSize:
    """What is embedded of a data set.

    Attributes:
        queries: how many.
        documents: how many.
        tokens: of all of them, as far as their first ones tell.
        is_kept: whether embeddings are kept.
    """

    queries: int
    documents: int
    tokens: int
    is_kept: bool

    @property
    def texts(self) -> int:
        """Queries and documents."""
        return self.queries + self.documents


def size_of(spec: RetrievalSpec, tokenizer: Any) -> RetrievalSize:  # noqa: ANN401 (any tokenizer)
    """Counts a data set's texts and estimates their tokens.

    Raises:
        InputError: it is not as it should be, or the tokenizer has no end token where one is needed.
    """
    collection = read_collection(spec)
    texts = texts_of(spec, collection)
    queries = len(collection.queries)
    tokens = sum(_tokens(part, spec, tokenizer) for part in (texts[:queries], texts[queries:]))
    return RetrievalSize(queries, len(texts) - queries, tokens, spec.keep_embeddings)


def _tokens(texts: list[str], spec: RetrievalSpec, tokenizer: Any) -> int:  # noqa: ANN401
    some = tokens_of(texts[:_LOOKED_AT], tokenizer, spec.max_length, "mean" if spec.pooling == "mean" else "last")
    return round(sum(map(len, some)) / len(some) * len(texts))
