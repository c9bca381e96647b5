"""Embeddings of data sets with `keep_embeddings`, for later questions that then do not need to run the model again."""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="retrieval_embeddings",
    grain="One row per variant × retrieval data set × text, in data sets with keep_embeddings.",
    key=("model", "recipe", "data_set", "side", "text_id"),
    columns=(
        *c.VARIANT,
        c.DATA_SET,
        c.label("side", "Whether the text is a query or a document.", values=("query", "document")),
        c.text("text_id", "Id of the text in its data set."),
        c.int32("tokens", "Tokens of the text as the model reads it, special ones included.", "tokens", minimum=1),
        c.amount("norm", "Length of the pooled embedding before it is normalised and rounded.", "2-norm", "‖e‖"),
        Column(
            pa.list_(pa.float16()),
            "embedding",
            "The embedding divided by its length. An entry has an absolute error of at most 2^-12 and a relative error "
            "of at most 2^-11. Scores are computed before this rounding. list_cosine_similarity of two recipes' "
            "embeddings of a text shows how far it moved.",
            "norm",
            "e/‖e‖",
        ),
    ),
    preview_columns=("tokens", "norm"),
    may_be_empty=True,
)
