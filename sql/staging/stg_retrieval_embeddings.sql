-- The table retrieval_embeddings as the marts read it: every column by name, and what follows from it at once.
-- grain: one row per variant × retrieval data set × text, in data sets with keep_embeddings.
-- key: model, recipe, data_set, side, text_id
-- inputs: retrieval_embeddings
-- how to read: list_cosine_similarity of two recipes' embeddings of a text is how far it moved.
-- reason: one place that names the stored columns, so that a renamed one breaks here and nowhere else.
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
