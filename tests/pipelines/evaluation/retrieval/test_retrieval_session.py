"""Tables of a retrieval session against a manually changed model, one text at a time."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.retrieval.beir_data import read_collection
from prunescope.pipelines.evaluation.retrieval.retrieval_session import RetrievalSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec
from tests.pipelines.evaluation.retrieval.test_beir_data import beir

DROPPED = Variant(dropped=("attn.1", "mlp.1"))
FEW = RetrievalSpec(
    name="python-help", max_queries=12, max_documents=20, max_length=40, query_prefix="query: ", document_prefix="text "
)


@pytest.fixture(scope="module")
def session(encoder: Decoder) -> RetrievalSession:
    return RetrievalSession(encoder, "tiny", [FEW])


def embedded(decoder: Decoder, text: str) -> np.ndarray:
    """Return the mean of the last states of one text, without layer 1."""
    ids = decoder.tokenizer(text, truncation=True, max_length=40).input_ids
    layers = decoder.model.get_submodule("encoder").layer
    kept = [layers[0], layers[2]]
    with torch.inference_mode():
        state = decoder.model.get_submodule("embeddings")(input_ids=torch.tensor([ids]))
        for layer in kept:
            state = layer(state)
    return state[0].double().mean(0).numpy()


def test_scores_equal_those_of_a_model_without_the_layer(session: RetrievalSession, encoder: Decoder) -> None:
    tables, data = session.measure("mine", DROPPED), read_collection(FEW)
    documents = {name: embedded(encoder, f"text {text}") for name, text in data.documents.items()}
    gains = {}
    for query, text in data.queries.items():
        vector = embedded(encoder, f"query: {text}")
        cosine = {
            name: vector @ other / np.linalg.norm(vector) / np.linalg.norm(other) for name, other in documents.items()
        }
        (right,) = data.relevance[query]
        rank = sum(each > cosine[right] for each in cosine.values()) + 1
        gains[query] = 1 / math.log2(rank + 1) if rank <= 10 else 0.0
    found = tables["retrieval_queries"].filter(metric="ndcg_at_10")
    assert dict(found.select("query_id", "value").iter_rows()) == pytest.approx(gains)
    values = list(gains.values())
    row = tables["retrieval_scores"].row(by_predicate=pl.col("metric") == "ndcg_at_10", named=True)
    assert (row["n"], row["data_set"]) == (12, "python-help")
    assert row["value"] == pytest.approx(np.mean(values))
    assert row["standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(12))


def test_stored_embeddings_reproduce_the_cosines(session: RetrievalSession, encoder: Decoder) -> None:
    dense = session.measure("dense", Variant())["retrieval_embeddings"]
    tables = session.measure("mine", DROPPED)
    mine, data = tables["retrieval_embeddings"], read_collection(FEW)
    assert mine.select("side", "text_id").rows() == [
        *(("query", name) for name in data.queries),
        *(("document", name) for name in data.documents),
    ]
    truth = embedded(encoder, f"text {next(iter(data.documents.values()))}")
    first = mine.row(12, named=True)
    assert np.array(first["embedding"], dtype=np.float64) * first["norm"] == pytest.approx(truth, rel=1e-3, abs=1e-3)
    one, other = (np.array(each["embedding"].to_list(), dtype=np.float64) for each in (dense, mine))
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    value = tables["retrieval_scores"].row(by_predicate=pl.col("metric") == "embedding_cosine", named=True)
    assert value["n"] == 32
    assert value["value"] == pytest.approx(cosines.mean(), abs=1e-4)
    queries = tables["retrieval_queries"].filter(metric="embedding_cosine")["value"]
    assert queries.to_numpy() == pytest.approx(cosines[:12], abs=1e-3)


def test_the_dense_model_against_itself_is_exactly_one(session: RetrievalSession) -> None:
    scores = session.measure("dense", Variant())["retrieval_scores"].filter(metric="embedding_cosine")
    assert scores.select("value", "standard_error").rows() == [(1.0, 0.0)]
    assert session.measure("dense", Variant())["retrieval_scores"].equals(
        session.measure("dense", Variant())["retrieval_scores"]
    )


def test_the_hash_covers_all_inputs_of_a_score(tmp_path: Path, encoder: Decoder) -> None:
    spec = beir(tmp_path / "one")
    other = beir(tmp_path / "two", qrels="a\td3\t1\nb\td1\t1\n")
    specs = [
        spec,
        spec.model_copy(update={"name": "same", "keep_embeddings": False, "max_queries": 5}),
        spec.model_copy(update={"name": "prefixed", "query_prefix": "q "}),
        spec.model_copy(update={"name": "shorter", "max_length": 5}),
        spec.model_copy(update={"name": "last", "pooling": "last"}),
        other.model_copy(update={"name": "judged"}),
    ]
    specs = [each.model_copy(update={"max_length": min(each.max_length, 100)}) for each in specs]
    tables = RetrievalSession(encoder, "tiny", specs).measure("dense", Variant())
    hashes = dict(tables["retrieval_scores"].select("data_set", "data_hash").unique().iter_rows())
    assert hashes["same"] == hashes["mine"]
    assert len(set(hashes.values())) == 5
    assert "same" not in tables["retrieval_embeddings"]["data_set"]
    # The document without a text has the tokenizer's own two tokens.
    lengths = tables["retrieval_embeddings"].filter(data_set="mine", text_id="d2")["tokens"]
    assert lengths.to_list() == [2]


def test_inner_products_depend_on_the_length(tmp_path: Path, causal: Decoder) -> None:
    spec = beir(tmp_path).model_copy(update={"max_length": 100})
    session = RetrievalSession(causal, "tiny", [spec, spec.model_copy(update={"name": "dot", "normalise": False})])
    kept = session.measure("dense", Variant())["retrieval_embeddings"].filter(data_set="dot")
    vectors = {row["text_id"]: np.array(row["embedding"]) * row["norm"] for row in kept.iter_rows(named=True)}
    ranked = sorted(("d1", "d2", "d3"), key=lambda name: -(vectors["b"] @ vectors[name]))
    found = session.measure("dense", Variant())["retrieval_queries"].filter(
        data_set="dot", metric="mrr_at_10", query_id="b"
    )
    assert found["value"].to_list() == [1 / (ranked.index("d1") + 1)]


def test_zero_embeddings_are_an_error(encoder: Decoder, session: RetrievalSession) -> None:
    norm = encoder.model.get_submodule("encoder.layer.2.output.LayerNorm")
    nothing = {f"encoder.layer.2.output.LayerNorm.{name}": torch.zeros(48) for name in ("weight", "bias")}
    assert norm.weight.any()
    with pytest.raises(ComputationError, match=r"tiny@mine: retrieval 'python-help': an embedding is zero"):
        session.measure("mine", Variant(parameters=nothing))
