-- The table retrieval_embeddings as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × retrieval data set × text, in data sets with keep_embeddings.
-- key: model, recipe, data_set, side, text_id
-- inputs: retrieval_embeddings
-- how to read: list_cosine_similarity of two recipes' embeddings of a text is how far it moved.
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    data_set,
    side,
    text_id,
    tokens,
    norm,
    embedding
from retrieval_embeddings
