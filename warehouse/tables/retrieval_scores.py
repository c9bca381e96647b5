"""How well a variant's embeddings find documents, and how far they moved.

Needs an embedding model; text that is generated is scored in `task_scores`.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="retrieval_scores",
    grain="One row per variant × retrieval data set × metric.",
    key=("model", "recipe", "data_set", "metric"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.DATA_SET,
        Column(
            "metric",
            c.LABEL,
            "`ndcg_at_10`, `recall_at_100`, `mrr_at_10` over queries; `embedding_cosine` the mean cosine between the "
            "dense and the pruned embedding of a text.",
            source="2603.24652 §5",
            values=("ndcg_at_10", "recall_at_100", "mrr_at_10", "embedding_cosine"),
        ),
        Column("value", pa.float64(), "The score; a cosine may be negative.", "share", minimum=-1, maximum=1),
        Column(
            "standard_error",
            pa.float64(),
            "Standard error of `value` over queries or texts; NULL where there is one.",
            "share",
            nullable=True,
            minimum=0,
        ),
        Column("n", pa.int64(), "Queries; for embedding_cosine texts, queries and documents together.", minimum=1),
        c.DATA_HASH,
    ),
    partitioning="variant",
    telling=("value", "standard_error", "n"),
    references=(c.OF_VARIANT,),
    invariants=(Invariant("only_a_cosine_is_negative", "metric = 'embedding_cosine' or value >= 0"),),
    may_be_empty=True,
)
