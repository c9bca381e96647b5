"""How a variant answers each sample of each task: what paired statistics between variants stand on.

Lists run in the order of the options as the task gives them.
"""

import pyarrow as pa

from warehouse.schema import Column, Invariant, Table
from warehouse.tables import columns as c

_FLOATS = pa.list_(pa.float32())

TABLE = Table(
    name="task_samples",
    grain="One row per variant × task × sample × way of scoring.",
    key=("model", "recipe", "task", "sample_id", "scoring"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.TASK,
        Column("sample_id", pa.string(), "Name of the sample in its task, the same for every variant."),
        Column(
            "scoring",
            c.LABEL,
            "What was compared: `letter` the likelihoods of the option labels, `full_text` those of the options' whole "
            "texts, `greedy` the text that the variant writes.",
            values=("letter", "full_text", "greedy"),
        ),
        Column("question", pa.string(), "The sample as the variant reads it, without worked examples."),
        Column("target", pa.string(), "The right answer; NULL where the task names none.", nullable=True),
        Column(
            "answer",
            pa.string(),
            "The variant's answer: the likeliest option, or what was found in its text; NULL where nothing was.",
            nullable=True,
        ),
        Column(
            "is_correct", pa.bool_(), "Whether the answer is the right one; NULL without a right answer.", nullable=True
        ),
        Column(
            "option_log_likelihoods",
            _FLOATS,
            "Log-likelihood of each option behind the question, summed over its tokens; NULL under greedy.",
            "nats",
            "Σ ln p(token)",
            nullable=True,
        ),
        Column(
            "option_log_likelihoods_per_byte",
            _FLOATS,
            "The same over the option's length in UTF-8, so that long options stand a chance; NULL under greedy.",
            "nats per byte",
            "Σ ln p(token)/bytes",
            nullable=True,
        ),
        Column(
            "target_index",
            pa.int32(),
            "Place of the right option, from 0; NULL under greedy or without a right answer.",
            nullable=True,
            minimum=0,
        ),
        Column(
            "tokens_generated",
            pa.int32(),
            "Length of the generated text, its end included; NULL where none was generated.",
            "tokens",
            nullable=True,
            minimum=0,
        ),
        Column(
            "ended",
            pa.bool_(),
            "Whether the text came to an end by itself before the limit; NULL where none was generated.",
            nullable=True,
        ),
        Column(
            "distinct_2",
            c.METRIC,
            "Share of distinct 2-grams in the text, up to its end; NULL where none was generated.",
            "share",
            "distinct/all 2-grams",
            nullable=True,
            minimum=0,
            maximum=1,
        ),
        Column(
            "repeat_rate",
            c.METRIC,
            "Share of repeated 3-grams in the text, up to its end; NULL where none was generated.",
            "share",
            "1 − distinct/all 3-grams",
            nullable=True,
            minimum=0,
            maximum=1,
        ),
    ),
    partitioning="variant",
    references=(c.OF_VARIANT,),
    invariants=(
        Invariant("options_or_text", "(scoring = 'greedy') = (option_log_likelihoods is null)"),
        Invariant("text_has_its_length", "(scoring = 'greedy') = (tokens_generated is not null)"),
        Invariant("an_option_has_both", "len(option_log_likelihoods) = len(option_log_likelihoods_per_byte)"),
        Invariant("target_is_an_option", "target_index < len(option_log_likelihoods)"),
        Invariant("correct_against_a_target", "is_correct is null or target is not null"),
    ),
    may_be_empty=True,
)
