"""Score of each query of a retrieval data set, for paired statistics between variants.

Means over queries are in `retrieval_scores`.
"""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="retrieval_queries",
    grain="One row per variant × retrieval data set × judged query × metric.",
    key=("model", "recipe", "data_set", "query_id", "metric"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.DATA_SET,
        c.text("query_id", "Id of the query in its data set, the same for every variant."),
        c.label(
            "metric",
            "As in `retrieval_scores`; `embedding_cosine` compares the two embeddings of the query.",
            values=c.RETRIEVAL_METRICS,
        ),
        c.RETRIEVAL_VALUE,
        c.DATA_HASH,
    ),
    preview_columns=("value",),
    invariants=(c.ONLY_COSINES_ARE_NEGATIVE,),
    may_be_empty=True,
)
