"""Retrieval quality of each variant's embeddings, and their shift.

The model must be an embedding model. Scores of generated text are in `task_scores`.
"""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="retrieval_scores",
    grain="One row per variant × retrieval data set × metric.",
    key=("model", "recipe", "data_set", "metric"),
    columns=(
        *c.VARIANT,
        c.DATA_SET,
        c.label(
            "metric",
            "`ndcg_at_10`, `recall_at_100` and `mrr_at_10` are means over queries; `embedding_cosine` is the mean "
            "cosine between the dense and the pruned embedding of a text.",
            source="2603.24652 §5",
            values=c.RETRIEVAL_METRICS,
        ),
        c.RETRIEVAL_VALUE,
        c.standard_error("Standard error of `value` over queries or texts; NULL if there is only one.", "share"),
        c.int64(
            "n", "Number of queries; for embedding_cosine, number of texts, both queries and documents.", minimum=1
        ),
        c.DATA_HASH,
    ),
    preview_columns=("value", "standard_error", "n"),
    invariants=(c.ONLY_COSINES_ARE_NEGATIVE,),
    may_be_empty=True,
)
