"""The dense side of a study's retrieval, embedded once and shared by every variant; each is then laid beside it.

The tables leave here as polars frames; who stores them is not this module's business.
"""

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
from prunescope.pipelines.evaluation.retrieval.document_ranking import best, scores
from prunescope.pipelines.evaluation.retrieval.embedding import embed, require_fits, tokens_of
from prunescope.pipelines.evaluation.retrieval.pooling import Pooling
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

COSINE = "embedding_cosine"
_LABELS = dict.fromkeys(("model", "recipe", "data_set", "metric"), pl.String)
SCORES = pl.Schema(
    {**_LABELS, "value": pl.Float64, "standard_error": pl.Float64, "n": pl.Int64, "data_hash": pl.String}
)
QUERIES = pl.Schema({**_LABELS, "query_id": pl.String, "value": pl.Float64, "data_hash": pl.String})
EMBEDDINGS = pl.Schema(
    [
        *((name, pl.String()) for name in ("model", "recipe", "data_set", "side", "text_id")),
        ("tokens", pl.Int32()),
        ("norm", pl.Float32()),
        ("embedding", pl.List(pl.Float16)),
    ]
)
Tables = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class _Data:
    """One data set in the model's tokens, with the dense model's embeddings.

    Attributes:
        spec: as the study names it.
        collection: its texts and judgements.
        pooling: as it was resolved for the model.
        hash: of contents and settings.
        ids: tokens of the queries, then of the documents.
        dense: embeddings of the same.
    """

    spec: RetrievalSpec
    collection: Collection
    pooling: Pooling
    hash: str
    ids: Sequence[tuple[int, ...]]
    dense: Float[Tensor, "texts width"]


class RetrievalSession:
    """Everything dense that the variants of one model share.

    Args:
        decoder: the dense model.
        model: its name in the tables.
        data_sets: what is searched.
        progress: one step a batch of texts.

    Raises:
        InputError: a data set is not as it should be, or its texts are cut at more tokens than the model reads.
        ComputationError: an embedding is NaN, infinite or zero.
    """

    def __init__(
        self, decoder: Decoder, model: str, data_sets: Sequence[RetrievalSpec], progress: Progress = SILENT
    ) -> None:
        self.decoder, self.model = decoder, model
        self._data = [self._read(spec, progress) for spec in data_sets]

    def measure(self, recipe: str, variant: Variant, progress: Progress = SILENT) -> Tables:
        """Embeds every text with a variant and scores what its queries find.

        Returns:
            Rows of `retrieval_scores`, `retrieval_queries` and `retrieval_embeddings`.

        Raises:
            ComputationError: an embedding is NaN, infinite or zero.
        """
        found = [self._measure(data, recipe, variant, progress) for data in self._data]
        empty = {"retrieval_scores": SCORES, "retrieval_queries": QUERIES, "retrieval_embeddings": EMBEDDINGS}
        return {
            table: pl.concat([schema.to_frame(), *(tables[table] for tables in found)])
            for table, schema in empty.items()
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
            found = embed(self.decoder, ids, pooling, progress)
        except ComputationError as error:
            raise ComputationError(f"{self.model}@{recipe}: {spec.what}: {error}") from error
        if not bool(found.any(dim=1).all()):
            raise ComputationError(f"{self.model}@{recipe}: {spec.what}: an embedding is zero and has no direction")
        return found

    def _measure(self, data: _Data, recipe: str, variant: Variant, progress: Progress) -> Tables:
        pruned = data.dense
        if not variant.is_dense:
            with apply_variant(self.decoder, variant):
                pruned = self._embedded(data.ids, data.pooling, data.spec, recipe, progress)
        queries, documents = list(data.collection.queries), list(data.collection.documents)
        cosines = _cosines(data.dense, pruned)
        values = {name: np.array(list(each.values())) for name, each in _scores(data, pruned).items()}
        by_query = values | {COSINE: cosines[: len(queries)]}
        about = {"model": self.model, "recipe": recipe, "data_set": data.spec.name}
        tables = {
            "retrieval_scores": [
                about | {"metric": name, "value": each.mean(), "standard_error": _error(each), "n": len(each)}
                for name, each in (values | {COSINE: cosines}).items()
            ],
            "retrieval_queries": [
                about | {"metric": name, "query_id": query, "value": value}
                for name, each in by_query.items()
                for query, value in zip(queries, each, strict=True)
            ],
        }
        schemas = {"retrieval_scores": SCORES, "retrieval_queries": QUERIES}
        frames = {
            name: pl.DataFrame([row | {"data_hash": data.hash} for row in rows], schema=schemas[name])
            for name, rows in tables.items()
        }
        names = [("query", name) for name in queries] + [("document", name) for name in documents]
        kept = _embedding_rows(about, names, data.ids, pruned) if data.spec.keep_embeddings else EMBEDDINGS.to_frame()
        return frames | {"retrieval_embeddings": kept}


def _scores(data: _Data, pruned: Float[Tensor, "texts width"]) -> dict[str, dict[str, float]]:
    queries, documents = list(data.collection.queries), list(data.collection.documents)
    places = {name: place for place, name in enumerate(documents)}
    vectors = torch.nn.functional.normalize(pruned.double()) if data.spec.normalise else pruned
    ranked = best(vectors[: len(queries)], vectors[len(queries) :], [places.get(name) for name in queries])
    found = {query: [documents[place] for place in own] for query, own in zip(queries, ranked, strict=True)}
    return scores(data.collection.relevance, found)


def _cosines(dense: Float[Tensor, "texts width"], pruned: Float[Tensor, "texts width"]) -> np.ndarray:
    """Cosine of each text's two embeddings: 1 − ‖u − v‖²/2 of unit vectors, which no rounding puts above 1."""
    one, other = (torch.nn.functional.normalize(each.double()) for each in (dense, pruned))
    return np.asarray((1 - (one - other).square().sum(dim=1) / 2).clamp(min=-1))


def _error(values: np.ndarray) -> float | None:
    """Standard error of a mean; None of one value."""
    return None if len(values) < 2 else float(values.std(ddof=1) / len(values) ** 0.5)


def _embedding_rows(
    about: dict[str, str],
    names: Sequence[tuple[str, str]],
    ids: Sequence[tuple[int, ...]],
    vectors: Float[Tensor, "texts width"],
) -> pl.DataFrame:
    norms = vectors.norm(dim=1)
    frame = pl.DataFrame(
        {
            "side": [side for side, _ in names],
            "text_id": [name for _, name in names],
            "tokens": [len(each) for each in ids],
            "norm": norms.numpy(),
            "embedding": pl.Series((vectors / norms[:, None]).half().numpy()),
        }
    )
    constants = {name: pl.lit(value) for name, value in about.items()}
    return frame.with_columns(**constants).select(pl.col(name).cast(of) for name, of in EMBEDDINGS.items())
