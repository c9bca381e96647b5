"""Size of a retrieval data set, measured before any weights are read.

The whole data set is read and checked; only its first texts are tokenized.
"""

from dataclasses import dataclass
from typing import Any

from prunescope.pipelines.evaluation.retrieval.beir_data import read_collection, texts_of
from prunescope.pipelines.evaluation.retrieval.embedding import tokens_of
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

_SAMPLE = 500


@dataclass(frozen=True)
class RetrievalSize:
    """Size of what is embedded of a data set.

    Attributes:
        queries: number of queries.
        documents: number of documents.
        tokens: of all of them, estimated from the first texts.
        keeps_embeddings: whether the embeddings are stored.
    """

    queries: int
    documents: int
    tokens: int
    keeps_embeddings: bool

    @property
    def texts(self) -> int:
        """Number of queries and documents."""
        return self.queries + self.documents


def retrieval_size(spec: RetrievalSpec, tokenizer: Any) -> RetrievalSize:  # noqa: ANN401 (any tokenizer)
    """Count a data set's texts and estimate their tokens.

    Raises:
        InputError: the data set is malformed, or the tokenizer lacks the end token that the pooling needs.
    """
    collection = read_collection(spec)
    texts = texts_of(spec, collection)
    queries = len(collection.queries)

    def tokens(part: list[str]) -> int:
        sample = tokens_of(part[:_SAMPLE], tokenizer, spec.max_length, "mean" if spec.pooling == "mean" else "last")
        return round(sum(map(len, sample)) / len(sample) * len(part))

    total = tokens(texts[:queries]) + tokens(texts[queries:])
    return RetrievalSize(queries, len(texts) - queries, total, spec.keep_embeddings)
