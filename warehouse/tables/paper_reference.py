"""Published numbers, for comparison with measured ones."""

from dataclasses import replace

from prunescope.warehouse.schema.table import Invariant, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="paper_reference",
    grain="One row per published number: model × source × method × dropped × task × metric × layer.",
    key=("model", "source", "method", "dropped", "task", "metric", "layer"),
    columns=(
        replace(c.MODEL, doc="Name of the published model, whether or not a study has it."),
        c.label("source", "Publication: arXiv number and table or figure."),
        c.label(
            "method",
            "Method, named like a recipe without its count: dense, attn-drop, mlp-drop, block-drop, wanda-50, "
            "sparsegpt-2of4; `unnamed` if the publication does not name it.",
        ),
        c.int32("dropped", "Number of dropped sublayers or blocks; 0 if the method drops none."),
        replace(
            c.TASK,
            doc="Name of the task or group of tasks, of the retrieval data set, or of the text. `layerwise` is the "
            "paper's comparison by layer, `generation` one text by step, `options` the options of a question, and "
            "`estimates` the fit of the theorems.",
        ),
        c.label(
            "metric",
            "Name of the metric as in `task_scores` or `retrieval_scores`; if the publication does not name it, "
            "`source` says inferred. `cosine_h`, `cosine_z`, `cosine_p` are by layer, with the step as suffix for a "
            "generation. `mass` is the probability of all options, `p_option_a` and so on that of one option.",
        ),
        c.int16("layer", "Changed layer, from 0; −1 for a number of the whole model.", minimum=-1),
        c.float64(
            "value",
            "The number in the unit of `task_scores`: percentages as shares, perplexities unchanged.",
            "share; units of text for perplexity; nats for KL",
            minimum=0,
        ),
    ),
    preview_columns=("value",),
    invariants=(Invariant("dense_drops_nothing", "method <> 'dense' or dropped = 0"),),
    may_be_empty=True,
    is_study_output=False,
)
