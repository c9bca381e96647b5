"""Ranking of documents for queries by their vectors, and TREC's retrieval measures of the ranking."""

from collections.abc import Mapping, Sequence

import ir_measures
import torch
from ir_measures import RR, R, nDCG
from jaxtyping import Float
from torch import Tensor

# Number of ranked documents: the deepest cutoff of a measure.
DEPTH = 100
MEASURES = {"ndcg_at_10": nDCG @ 10, "recall_at_100": R @ 100, "mrr_at_10": RR @ 10}
# Number of float64 similarities per block.
_BLOCK = 2**25


def rank_documents(
    queries: Float[Tensor, "queries width"],
    documents: Float[Tensor, "documents width"],
    itself: Sequence[int | None],
    depth: int = DEPTH,
) -> list[list[int]]:
    """Return the indices of the `depth` documents most similar to each query by inner product, the best first.

    Similarities are summed in float64 and rounded to float32, so equal documents tie for any order of the sums. Ties
    are broken by order in the corpus. `itself` has, per query, the index of the document that is the query itself (as
    in ArguAna) and must not be ranked, or None.
    """
    rankings: list[list[int]] = []
    block_documents = max(1, _BLOCK // max(1, documents.shape[1]))
    block_queries = max(1, _BLOCK // max(1, len(documents)))
    for first in range(0, len(queries), block_queries):
        rows = queries[first : first + block_queries].double()
        parts = [(rows @ block.double().T).float() for block in documents.split(block_documents)]
        similarities = torch.cat(parts, dim=1)
        for row, same in zip(similarities, itself[first : first + block_queries], strict=True):
            if same is not None:
                row[same] = -torch.inf
            # Select all documents that tie with the last one; the stable sort then keeps the corpus's order.
            threshold = row.topk(min(depth, len(row))).values[-1]
            candidates = (row >= threshold).nonzero()[:, 0]
            order = row[candidates].argsort(descending=True, stable=True)[:depth]
            rankings.append([index for index in candidates[order].tolist() if index != same])
    return rankings


def score_rankings(
    relevance: Mapping[str, Mapping[str, int]], ranked: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Return each measure per query; 0 if a query finds no relevant document.

    nDCG@10 uses the judgements as gains with a discount of log₂(rank + 1) (Järvelin and Kekäläinen 2002, as in
    trec_eval). Recall@100 is the share of relevant documents in the first 100. MRR@10 is one over the rank of the first
    relevant document in the first 10. Judgements are by query and document id; the best ranked id comes first.
    """
    # trec_eval breaks ties in its own way; with −rank as the score there are none.
    run = {query: {name: float(-rank) for rank, name in enumerate(names)} for query, names in ranked.items()}
    judged = {query: dict(names) for query, names in relevance.items()}
    values = {name: dict.fromkeys(ranked, 0.0) for name in MEASURES}
    names = {measure: name for name, measure in MEASURES.items()}
    for result in ir_measures.iter_calc(list(MEASURES.values()), judged, run):
        values[names[result.measure]][result.query_id] = float(result.value)
    return values
