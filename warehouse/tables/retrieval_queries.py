"""Score of each query of a retrieval data set, for paired statistics between variants.

Means over queries are in `retrieval_scores`.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
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
            "As in `retrieval_scores`; `embedding_cosine` compares the two embeddings of the query.",
            values=c.RETRIEVAL_METRICS,
        ),
        c.RETRIEVAL_VALUE,
        c.DATA_HASH,
    ),
    partitioning="variant",
    preview_columns=("value",),
    references=(c.OF_VARIANT,),
    invariants=(c.ONLY_COSINES_ARE_NEGATIVE,),
    may_be_empty=True,
)
