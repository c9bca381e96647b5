"""Retrieval quality of a variant's embeddings, and their shift.

Needs an embedding model; `task_scores` has the scores of generated text.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
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
            values=c.RETRIEVAL_METRICS,
        ),
        c.RETRIEVAL_VALUE,
        Column(
            "standard_error",
            pa.float64(),
            "Standard error of `value` over queries or texts; NULL where there is only one.",
            "share",
            nullable=True,
            minimum=0,
        ),
        Column(
            "n",
            pa.int64(),
            "Number of queries; for embedding_cosine of texts, queries and documents together.",
            minimum=1,
        ),
        c.DATA_HASH,
    ),
    partitioning="variant",
    preview_columns=("value", "standard_error", "n"),
    references=(c.OF_VARIANT,),
    invariants=(c.ONLY_COSINES_ARE_NEGATIVE,),
    may_be_empty=True,
)
