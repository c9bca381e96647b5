"""Shift of the representation by each sublayer: the main table of the warehouse.

It is teacher-forced: both sides read the prompt and the dense model's greedy continuation.
"""

from dataclasses import replace

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

_EXAMPLE = """\
SELECT -- each sublayer at the step at which a text of wanda-2of4 first flips; first_divergent_layer has the answer
       prompt_id, step, layer, sublayer, here.is_top1_same, here.kl_dense_pruned_nats,
       here.margin_dense AS lens_margin_dense, output.margin_dense
FROM layer_transitions AS here
JOIN decoding_steps AS output USING (model, recipe, prompt_id, step, temperature)
JOIN generations USING (model, recipe, prompt_id)
WHERE recipe = 'wanda-2of4' AND step = first_flip_step AND temperature = 1
  AND output.trajectory = 'teacher_forced' AND scope = 'propagated' AND lens = 'normed'
ORDER BY prompt_id, layer, sublayer"""

TABLE = Table(
    name="layer_transitions",
    grain="One row per variant × prompt × position × layer × sublayer × scope × lens × temperature.",
    key=("model", "recipe", "prompt_id", "position", "layer", "sublayer", "scope", "lens", "temperature"),
    columns=(
        *c.PROMPT,
        c.POSITION,
        replace(
            c.STEP, doc="Generated token that this position predicts, from 0; NULL inside the prompt.", nullable=True
        ),
        c.LAYER,
        c.SUBLAYER,
        c.SCOPE,
        c.LENS,
        c.TEMPERATURE,
        c.flag(
            "is_changed",
            "Whether the recipe changed this sublayer's weights, dropped it, or (noise) computes it with other "
            "rounding. If not, the local shift is exactly zero and is not computed. Files of earlier releases hold "
            "false and zeros for noise.",
        ),
        *c.DIVERGENCE_BY_LENS,
    ),
    preview_columns=("one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p", "kl_dense_pruned_nats"),
    invariants=c.DIVERGENCE_INVARIANTS,
    example=_EXAMPLE,
)
