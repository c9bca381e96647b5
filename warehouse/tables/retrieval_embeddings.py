"""The embeddings themselves, so that a later question needs no second run of the model.

Of data sets whose study keeps them (`keep_embeddings`).
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="retrieval_embeddings",
    grain="One row per variant × retrieval data set × text, in data sets with keep_embeddings.",
    key=("model", "recipe", "data_set", "side", "text_id"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.DATA_SET,
        Column("side", c.LABEL, "Whether the text is a query or a document.", values=("query", "document")),
        Column("text_id", pa.string(), "Id of the text in its data set."),
        Column("tokens", pa.int32(), "Tokens of the text as it was read, special ones included.", "tokens", minimum=1),
        Column(
            "norm",
            pa.float32(),
            "Length of the pooled embedding, before it is normalised or rounded.",
            "2-norm",
            "‖e‖",
            minimum=0,
        ),
        Column(
            "embedding",
            pa.list_(pa.float16()),
            "The embedding over its length: entries have an error of at most 2^-12, and 2^-11 of their size. Scores "
            "stand on what was not rounded.",
            "norm",
            "e/‖e‖",
        ),
    ),
    partitioning="variant",
    telling=("tokens", "norm"),
    references=(c.OF_VARIANT,),
    may_be_empty=True,
)
