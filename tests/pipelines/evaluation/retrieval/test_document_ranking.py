"""Measures against manual values and explicit formulas; ranks against sorting."""

import math

import numpy as np
import pytest
import torch

from prunescope.pipelines.evaluation.retrieval import document_ranking
from prunescope.pipelines.evaluation.retrieval.document_ranking import rank_documents, score_rankings


def by_hand(judged: dict[str, int], ranked: list[str]) -> tuple[float, float, float]:
    """Return nDCG@10, recall@100 and MRR@10 from their definitions."""
    gains = [max(0, judged.get(name, 0)) for name in ranked]
    ideal = sorted((score for score in judged.values() if score > 0), reverse=True)

    def discounted(values: list[int]) -> float:
        return sum(value / math.log2(place + 2) for place, value in enumerate(values[:10]))

    first = next((place for place, gain in enumerate(gains[:10]) if gain), None)
    found = sum(gain > 0 for gain in gains[:100])
    return (
        discounted(gains) / discounted(ideal) if ideal else 0.0,
        found / len(ideal) if ideal else 0.0,
        0.0 if first is None else 1 / (first + 1),
    )


def test_measures_equal_manual_values() -> None:
    relevance = {"q": {"x": 2, "y": 1, "z": 0}, "late": {"x": 1}, "never": {"x": 1}}
    others = [f"n{index}" for index in range(20)]
    found = score_rankings(relevance, {"q": ["y", "z", "x"], "late": [*others, "x"], "never": others})
    # DCG 1/log₂2 + 0 + 2/log₂4 = 2, ideal 2 + 1/log₂3.
    assert found["ndcg_at_10"]["q"] == pytest.approx(2 / (2 + 1 / math.log2(3)), rel=1e-12)
    assert found["recall_at_100"] == {"q": 1, "late": 1, "never": 0}
    assert found["mrr_at_10"] == {"q": 1, "late": 0, "never": 0}
    assert found["ndcg_at_10"]["late"] == 0


def test_measures_equal_their_definitions_on_random_judgements() -> None:
    chance = np.random.default_rng(0)
    names = [f"d{index}" for index in range(150)]
    relevance, ranked = {}, {}
    for query in range(30):
        judged = chance.choice(names, size=chance.integers(1, 40), replace=False)
        relevance[f"q{query}"] = {str(name): int(chance.integers(-1, 4)) for name in judged}
        ranked[f"q{query}"] = [str(name) for name in chance.permutation(names)[: chance.integers(0, 101)]]
    found = score_rankings(relevance, ranked)
    for query, judged in relevance.items():
        measured = [found[name][query] for name in ("ndcg_at_10", "recall_at_100", "mrr_at_10")]
        assert measured == pytest.approx(by_hand(judged, ranked[query]), abs=1e-9)


@pytest.mark.parametrize("block", [2**25, 64, 1])
def test_ranks_equal_those_of_sorting_for_any_block_size(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(document_ranking, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(7, 16, generator=generator), torch.randn(40, 16, generator=generator)
    found = rank_documents(queries, documents, [None] * 7, depth=5)
    similar = (queries.double() @ documents.double().T).tolist()
    assert found == [sorted(range(40), key=lambda place, row=row: -row[place])[:5] for row in similar]


def test_tied_documents_keep_the_order_of_the_corpus() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 33, generator=generator)
    # Twelve copies of two documents in turn: a rank within the copies is decided by their places alone.
    documents = torch.stack([one, other]).repeat(12, 1)
    found = rank_documents(one[None], documents, [None], depth=18)
    assert found == [[*range(0, 24, 2), *range(1, 13, 2)]]


def test_a_query_excludes_itself_and_a_small_corpus_is_ranked_whole() -> None:
    documents = torch.eye(3)
    assert rank_documents(documents, documents, [0, None, 2]) == [[1, 2], [1, 0, 2], [0, 1]]
    assert rank_documents(documents[:1], documents[:1], [0]) == [[]]
    assert score_rankings({"q": {"d": 1}}, {"q": []})["ndcg_at_10"] == {"q": 0.0}
