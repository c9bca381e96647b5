-- The table paper_reference as other views read it: every column by name.
-- grain: one row per published number: model × source × method × dropped × task × metric × layer.
-- key: model, source, method, dropped, task, metric, layer
-- inputs: paper_reference
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
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
