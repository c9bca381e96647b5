"""Which documents each query finds first, and what that is worth by ir-measures, as TREC computes it.

How texts become vectors is `embedding.py`'s.
"""

from collections.abc import Mapping, Sequence

import ir_measures
import torch
from ir_measures import RR, R, nDCG
from jaxtyping import Float
from torch import Tensor

# Documents that a query ranks: the deepest cutoff of a measure.
DEPTH = 100
MEASURES = {"ndcg_at_10": nDCG @ 10, "recall_at_100": R @ 100, "mrr_at_10": RR @ 10}
# Similarities of one block, in float64.
_BLOCK = 2**25


def best(
    queries: Float[Tensor, "queries width"],
    documents: Float[Tensor, "documents width"],
    own: Sequence[int | None],
    depth: int = DEPTH,
) -> list[list[int]]:
    """Indices of the documents that are most similar to each query by inner product, the best first.

    Similarities are summed in float64 and rounded to float32, so that equal documents tie whatever the order of the
    sums; of documents that tie the first in the corpus comes first.

    Args:
        queries: one a row.
        documents: one a row.
        own: for each query a document that it must not find: itself (ArguAna's queries are documents).
        depth: how many are ranked.
    """
    found: list[list[int]] = []
    wide = max(1, _BLOCK // max(1, documents.shape[1]))
    for first in range(0, len(queries), high := max(1, _BLOCK // max(1, len(documents)))):
        rows = queries[first : first + high].double()
        parts = [(rows @ block.double().T).float() for block in documents.split(wide)]
        similar = torch.cat(parts, dim=1)
        for row, itself in zip(similar, own[first : first + high], strict=True):
            if itself is not None:
                row[itself] = -torch.inf
            # All that tie with the last one are looked at, then sorted in a way that keeps the corpus's order.
            least = row.topk(min(depth, len(row))).values[-1]
            candidates = (row >= least).nonzero()[:, 0]
            order = row[candidates].argsort(descending=True, stable=True)[:depth]
            ranked = candidates[order].tolist()
            found.append([index for index in ranked if index != itself])
    return found


def scores(
    relevance: Mapping[str, Mapping[str, int]], ranked: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Each measure of each query.

    nDCG@10 with the judgements as gains and a discount of log₂(rank + 1) (Järvelin and Kekäläinen 2002, as trec_eval
    has it), the share of relevant documents in the first 100, and one over the rank of the first relevant document in
    the first 10.

    Args:
        relevance: judgements by query and document id.
        ranked: document ids by query, the best first.

    Returns:
        By measure and query; 0 where a query has found nothing.
    """
    # trec_eval breaks ties on its own; falling whole numbers leave none.
    run = {query: {name: float(-place) for place, name in enumerate(names)} for query, names in ranked.items()}
    judged = {query: dict(names) for query, names in relevance.items()}
    found = {name: dict.fromkeys(ranked, 0.0) for name in MEASURES}
    names = {measure: name for name, measure in MEASURES.items()}
    for each in ir_measures.iter_calc(list(MEASURES.values()), judged, run):
        found[names[each.measure]][each.query_id] = float(each.value)
    return found
