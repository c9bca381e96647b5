"""Numbers that others have published, to stand beside our own.

Nothing that this project measured.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="paper_reference",
    grain="One row per published number: model × source × method × dropped × task × metric × layer.",
    key=("model", "source", "method", "dropped", "task", "metric", "layer"),
    columns=(
        c.MODEL.but(doc="Name of the published model, whether or not a study has it."),
        Column("source", c.LABEL, "Where it was published: arXiv number and table or figure."),
        Column(
            "method",
            c.LABEL,
            "How the model was pruned, named as a recipe without its count: dense, attn-drop, mlp-drop, block-drop, "
            "wanda-50, sparsegpt-2of4; `unnamed` where the publication does not say.",
        ),
        Column("dropped", pa.int32(), "Sublayers or blocks dropped; 0 where the method drops none.", minimum=0),
        c.TASK.but(
            doc="Name of the task or group of tasks, of the retrieval data set, or of the text; `layerwise` for the "
            "paper's comparison layer by layer, `generation` for one text step by step, `options` for the options of a "
            "question, `estimates` for how the theorems fit."
        ),
        Column(
            "metric",
            c.LABEL,
            "Name of the metric as in `task_scores` or `retrieval_scores`; where the publication does not say it, "
            "`source` calls it inferred. `cosine_h`, `cosine_z`, `cosine_p` layer by layer; of a generation with the "
            "step behind them; `mass` of all options, `p_option_a` and on of one among them.",
        ),
        Column(
            "layer",
            pa.int16(),
            "Layer that was changed, from 0; −1 for a number of the whole model.",
            minimum=-1,
        ),
        Column(
            "value",
            pa.float64(),
            "The number in the unit of `task_scores`: published percents are shares here, perplexities stay.",
            "share; units of text for perplexity; nats for KL",
            minimum=0,
        ),
    ),
    partitioning="model",
    telling=("value",),
    invariants=(Invariant("dense_drops_nothing", "method <> 'dense' or dropped = 0"),),
    may_be_empty=True,
    is_of_studies=False,
)
