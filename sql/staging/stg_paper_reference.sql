-- The table paper_reference as the marts read it: every column by name.
-- grain: one row per published number: model × source × method × dropped × task × metric × layer.
-- key: model, source, method, dropped, task, metric, layer
-- inputs: paper_reference
-- reason: one place that names the stored columns, so that a renamed one breaks here and nowhere else.
select
    model,
    source,
    method,
    dropped,
    task,
    metric,
    layer,
    value
from paper_reference
