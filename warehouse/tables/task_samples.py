"""How a variant answers each sample of each task: what paired statistics between variants stand on.

Lists run in the order of the options as the task gives them.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Table
from prunescope.warehouse.tables import columns as c

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
            "sample_hash",
            pa.string(),
            "SHA-256 of all that was asked: the prompt, worked examples included, and the options or the limits of the "
            "text. Samples of two variants are a pair only where it is equal.",
        ),
        Column(
            "scoring",
            c.LABEL,
            "What was compared: `letter` the likelihoods of the option labels, `full_text` those of the options' whole "
            "texts, `greedy` the text that the variant writes, `rolling` nothing: a text is read, and counts as the "
            "only option.",
            values=("letter", "full_text", "greedy", "rolling"),
        ),
        Column(
            "question",
            pa.string(),
            "The sample as the variant reads it, without worked examples; under rolling where the text begins.",
        ),
        Column(
            "options",
            pa.list_(pa.string()),
            "What was compared, in the task's order; NULL under greedy and rolling.",
            nullable=True,
        ),
        Column("target", pa.string(), "The right answer; NULL where the task names none.", nullable=True),
        Column(
            "answer",
            pa.string(),
            "The variant's answer: the likeliest option, by its summed log-likelihood and the first of equal ones, or "
            "what was found strictly in its text (the program itself where that is run); NULL where nothing was found.",
            nullable=True,
        ),
        Column(
            "is_correct",
            pa.bool_(),
            "Whether the answer is the right one, an answer that was not found being none; NULL without a right "
            "answer, and where the program was not run.",
            nullable=True,
        ),
        Column(
            "answer_lenient",
            pa.string(),
            "What was found leniently in the text; NULL where nothing was, and but under greedy.",
            nullable=True,
        ),
        Column(
            "is_correct_lenient",
            pa.bool_(),
            "As `is_correct`, of the lenient answer; NULL but under greedy.",
            nullable=True,
        ),
        Column(
            "is_answer_same",
            pa.bool_(),
            "Whether the answer (under greedy the lenient one) is the dense model's own; NULL where the dense model "
            "gives none.",
            nullable=True,
        ),
        Column(
            "option_log_likelihoods",
            _FLOATS,
            "Log-likelihood of each option behind the question, summed over its tokens; under rolling that of the "
            "text; NULL under greedy.",
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
            "Place of the right option, from 0, which is the text under rolling; NULL under greedy or without a right "
            "answer.",
            nullable=True,
            minimum=0,
        ),
        Column(
            "text",
            pa.string(),
            "The generated text, up to the first stop string; NULL where none was generated.",
            nullable=True,
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
            "collapse_step",
            pa.int32(),
            "First step of the text that completes a loop: one n-gram (n ≤ 8) three times or more over 6 tokens; "
            "NULL where none does.",
            "step",
            nullable=True,
            minimum=0,
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
        Column(
            "verdict",
            c.LABEL,
            "What running the program that was written came to; NULL where no program is asked for.",
            nullable=True,
            values=("passed", "failed", "timed_out", "memory", "refused", "not_run"),
        ),
    ),
    partitioning="variant",
    telling=("target", "answer", "is_correct"),
    references=(c.OF_VARIANT,),
    invariants=(
        Invariant("options_or_text", "(scoring = 'greedy') = (option_log_likelihoods is null)"),
        Invariant("text_has_its_length", "(scoring = 'greedy') = (tokens_generated is not null and text is not null)"),
        Invariant("a_text_is_one_option", "scoring <> 'rolling' or len(option_log_likelihoods) = 1"),
        Invariant(
            "options_are_named", "scoring in ('greedy', 'rolling') or len(options) = len(option_log_likelihoods)"
        ),
        Invariant("lenient_answers_are_written", "scoring = 'greedy' or (answer_lenient is null and verdict is null)"),
        Invariant("what_was_not_run_is_not_judged", "verdict <> 'not_run' or is_correct is null"),
        Invariant("an_option_has_both", "len(option_log_likelihoods) = len(option_log_likelihoods_per_byte)"),
        Invariant("target_is_an_option", "target_index < len(option_log_likelihoods)"),
        Invariant("correct_against_a_target", "is_correct is null or target is not null"),
    ),
    may_be_empty=True,
)
