"""What each query of a retrieval data set finds: what paired statistics between variants stand on.

Means over queries are in `retrieval_scores`.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="retrieval_queries",
    grain="One row per variant × retrieval data set × judged query × metric.",
    key=("model", "recipe", "data_set", "query_id", "metric"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.DATA_SET,
        Column("query_id", pa.string(), "Id of the query in its data set, the same for every variant."),
        Column(
            "metric",
            c.LABEL,
            "As in `retrieval_scores`; `embedding_cosine` is that of the query's own embeddings.",
            values=("ndcg_at_10", "recall_at_100", "mrr_at_10", "embedding_cosine"),
        ),
        Column("value", pa.float64(), "The score; a cosine may be negative.", "share", minimum=-1, maximum=1),
        c.DATA_HASH,
    ),
    partitioning="variant",
    telling=("value",),
    references=(c.OF_VARIANT,),
    invariants=(Invariant("only_a_cosine_is_negative", "metric = 'embedding_cosine' or value >= 0"),),
    may_be_empty=True,
)
