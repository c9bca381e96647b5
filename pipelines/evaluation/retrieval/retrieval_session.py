"""Retrieval with the dense model's embeddings and those of variants, as rows of the retrieval tables."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.retrieval.beir_data import Collection, contents_hash, read_collection, texts_of
from prunescope.pipelines.evaluation.retrieval.document_ranking import rank_documents, score_rankings
from prunescope.pipelines.evaluation.retrieval.embedding import embed, require_fits, tokens_of
from prunescope.pipelines.evaluation.retrieval.pooling import Pooling
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

COSINE = "embedding_cosine"
Tables = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class _Data:
    """One data set in the model's tokens, with the dense model's embeddings.

    `hash` covers contents and settings. `ids` has the tokens of the queries, then those of the documents.
    """

    spec: RetrievalSpec
    collection: Collection
    pooling: Pooling
    hash: str
    ids: Sequence[tuple[int, ...]]
    dense: Float[Tensor, "texts width"]


class RetrievalSession:
    """Dense side of retrieval, embedded once and shared by the variants of a model.

    Raises:
        InputError: a data set is malformed, or its `max_length` exceeds the model's context.
        ComputationError: an embedding is NaN, infinite or zero.
    """

    def __init__(
        self, decoder: Decoder, model: str, data_sets: Sequence[RetrievalSpec], progress: Progress = SILENT
    ) -> None:
        self.decoder, self.model = decoder, model
        self._data = [self._read(spec, progress) for spec in data_sets]

    def measure(self, recipe: str, variant: Variant, progress: Progress = SILENT) -> Tables:
        """Return the rows of `retrieval_scores`, `retrieval_queries` and `retrieval_embeddings` of one variant.

        Raises:
            ComputationError: an embedding is NaN, infinite or zero.
        """
        measured = [self._measure(data, recipe, variant, progress) for data in self._data]
        names = ("retrieval_scores", "retrieval_queries", "retrieval_embeddings")
        return {
            table: pl.concat([pl.DataFrame(), *(own[table] for own in measured)], how="diagonal_relaxed")
            for table in names
        }

    def _read(self, spec: RetrievalSpec, progress: Progress) -> _Data:
        require_fits(spec, self.decoder.context_length)
        collection = read_collection(spec)
        pooling: Pooling = spec.pooling if spec.pooling != "auto" else "last" if self.decoder.is_causal else "mean"
        ids = tokens_of(texts_of(spec, collection), self.decoder.tokenizer, spec.max_length, pooling)
        settings = spec.model_dump(include={"query_prefix", "document_prefix", "max_length", "normalise"})
        facts = [contents_hash(collection), pooling, settings]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        dense = self._embedded(ids, pooling, spec, "dense", progress)
        return _Data(spec, collection, pooling, digest, ids, dense)

    def _embedded(
        self, ids: Sequence[tuple[int, ...]], pooling: Pooling, spec: RetrievalSpec, recipe: str, progress: Progress
    ) -> Float[Tensor, "texts width"]:
        try:
            embeddings = embed(self.decoder, ids, pooling, progress)
        except ComputationError as error:
            raise ComputationError(f"{self.model}@{recipe}: {spec.what}: {error}") from error
        if not bool(embeddings.any(dim=1).all()):
            raise ComputationError(f"{self.model}@{recipe}: {spec.what}: an embedding is zero and has no direction")
        return embeddings

    def _measure(self, data: _Data, recipe: str, variant: Variant, progress: Progress) -> Tables:
        pruned = data.dense
        if not variant.is_dense:
            with apply_variant(self.decoder, variant):
                pruned = self._embedded(data.ids, data.pooling, data.spec, recipe, progress)
        queries, documents = list(data.collection.queries), list(data.collection.documents)
        cosines = _cosines(data.dense, pruned)
        values = {name: np.array(list(scores.values())) for name, scores in _scores(data, pruned).items()}
        hashed = {"data_set": data.spec.name, "data_hash": data.hash}
        scores = [
            hashed
            | {
                "metric": name,
                "value": numbers.mean(),
                "standard_error": None if len(numbers) < 2 else numbers.std(ddof=1) / len(numbers) ** 0.5,
                "n": len(numbers),
            }
            for name, numbers in (values | {COSINE: cosines}).items()
        ]
        by_query = [
            hashed | {"metric": name, "query_id": query, "value": value}
            for name, numbers in (values | {COSINE: cosines[: len(queries)]}).items()
            for query, value in zip(queries, numbers, strict=True)
        ]
        embeddings = pl.DataFrame()
        if data.spec.keep_embeddings:
            norms = pruned.norm(dim=1)
            columns = {
                "data_set": data.spec.name,
                "side": ["query"] * len(queries) + ["document"] * len(documents),
                "text_id": [*queries, *documents],
                "tokens": [len(tokens) for tokens in data.ids],
                "norm": norms.numpy(),
                "embedding": pl.Series((pruned / norms[:, None]).half().numpy()).arr.to_list(),
            }
            embeddings = pl.DataFrame(columns)
        return {
            "retrieval_scores": pl.DataFrame(scores),
            "retrieval_queries": pl.DataFrame(by_query),
            "retrieval_embeddings": embeddings,
        }


def _scores(data: _Data, pruned: Float[Tensor, "texts width"]) -> dict[str, dict[str, float]]:
    queries, documents = list(data.collection.queries), list(data.collection.documents)
    indices = {name: index for index, name in enumerate(documents)}
    vectors = torch.nn.functional.normalize(pruned.double()) if data.spec.normalise else pruned
    itself = [indices.get(name) for name in queries]
    rankings = rank_documents(vectors[: len(queries)], vectors[len(queries) :], itself)
    ranked = {query: [documents[index] for index in top] for query, top in zip(queries, rankings, strict=True)}
    return score_rankings(data.collection.relevance, ranked)


def _cosines(dense: Float[Tensor, "texts width"], pruned: Float[Tensor, "texts width"]) -> np.ndarray:
    """Return the cosine of each text's two embeddings as 1 − ‖u − v‖²/2 of unit vectors, which is at most 1."""
    one, other = (torch.nn.functional.normalize(vectors.double()) for vectors in (dense, pruned))
    return np.asarray((1 - (one - other).square().sum(dim=1) / 2).clamp(min=-1))
