"""Answer of each variant to each sample of each task, for paired statistics between variants.

Lists have the order of the options in the task.
"""

from dataclasses import replace
from functools import partial

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant, Table
from prunescope.warehouse.tables import columns as c
from prunescope.warehouse.tables import generations

_TEXT = {column.name: column for column in generations.TABLE.columns}
_optional = partial(Column, nullable=True)
_since_2 = partial(Column, nullable=True, since=2)
_count = partial(c.int32, nullable=True)

TABLE = Table(
    name="task_samples",
    grain="One row per variant × task × sample × way of scoring.",
    key=("model", "recipe", "task", "sample_id", "scoring"),
    columns=(
        *c.VARIANT,
        c.TASK,
        c.text("sample_id", "Name of the sample in its task, the same for every variant."),
        c.text(
            "sample_hash",
            "SHA-256 of the prompt, worked examples included, and of the options or the limits of the text. Samples of "
            "two variants form a pair only if their hashes are equal.",
        ),
        c.label(
            "scoring",
            "What is compared: the likelihoods of the options' labels (`letter`) or of their whole texts "
            "(`full_text`), the generated text (`greedy`), or nothing (`rolling`: a text is read and counts as the "
            "only option).",
            values=("letter", "full_text", "greedy", "rolling"),
        ),
        c.text(
            "question",
            "The sample as the variant reads it, without worked examples; under rolling, the beginning of the text.",
        ),
        _optional(
            pa.list_(pa.string()), "options", "Compared texts, in the task's order; NULL under greedy and rolling."
        ),
        _optional(pa.string(), "target", "Correct answer; NULL if the task names none."),
        _optional(
            pa.string(),
            "answer",
            "The variant's answer. With options: the one with the largest summed log-likelihood, the first one on "
            "ties. Otherwise: the answer extracted strictly from its text, or the program. NULL if none was found.",
        ),
        _optional(
            pa.bool_(),
            "is_correct",
            "Whether the answer is correct; false if none was found; NULL without a target, or if no program ran.",
        ),
        _optional(
            pa.string(),
            "answer_lenient",
            "Answer extracted leniently from the text; NULL if none was found, and in every scoring but greedy.",
        ),
        _optional(pa.bool_(), "is_correct_lenient", "`is_correct` of the lenient answer; NULL except under greedy."),
        _optional(
            pa.bool_(),
            "is_answer_same",
            "Whether the answer (under greedy the lenient one) equals the dense model's; NULL if the dense model has "
            "none.",
        ),
        _optional(
            pa.list_(pa.float32()),
            "option_log_likelihoods",
            "Log-likelihood of each option after the question, summed over its tokens; under rolling, of the text; "
            "NULL under greedy.",
            "nats",
            "Σ ln p(token)",
        ),
        _optional(
            pa.list_(pa.float32()),
            "option_log_likelihoods_per_byte",
            "The same divided by the option's bytes in UTF-8, which gives long options a chance; NULL under greedy.",
            "nats per byte",
            "Σ ln p(token)/bytes",
        ),
        _count(
            "target_index",
            "Index of the correct option, from 0; under rolling, of the text. NULL under greedy or without a target.",
        ),
        _optional(pa.string(), "text", "The generated text, up to the first stop string; NULL if none was generated."),
        _count(
            "tokens_generated", "Length of the generated text, its end included; NULL if none was generated.", "tokens"
        ),
        _optional(
            pa.bool_(), "ended", "Whether the text ended by itself before the limit; NULL if none was generated."
        ),
        _TEXT["collapse_step"],
        *(
            replace(_TEXT[name], doc=f"{_TEXT[name].doc.removesuffix('.')}; NULL if none was generated.", nullable=True)
            for name in ("distinct_2", "repeat_rate")
        ),
        c.label(
            "verdict",
            "Result of running the generated program; NULL if the task asks for no program.",
            nullable=True,
            values=("passed", "failed", "timed_out", "memory", "refused", "not_run"),
        ),
        _since_2(pa.list_(pa.int32()), "token_ids", "Tokens of the generated text, its end included; NULL if none."),
        _since_2(
            pa.int32(),
            "first_flip_step",
            "First step whose token differs from the dense model's; NULL if no token differs.",
            "step",
        ),
        _since_2(
            pa.string(),
            "text_fork",
            "Text that the dense model writes after it was made to take the variant's token at the first flip, with "
            "the tokens before the flip; NULL if no token differs.",
        ),
        _since_2(pa.string(), "answer_fork", "`answer` of the fork."),
        _since_2(pa.bool_(), "is_correct_fork", "`is_correct` of the fork."),
        _since_2(pa.string(), "answer_lenient_fork", "`answer_lenient` of the fork."),
        _since_2(pa.bool_(), "is_correct_lenient_fork", "`is_correct_lenient` of the fork."),
    ),
    preview_columns=("target", "answer", "is_correct"),
    invariants=(
        Invariant("options_or_text", "(scoring = 'greedy') = (option_log_likelihoods is null)"),
        Invariant("text_has_its_length", "(scoring = 'greedy') = (tokens_generated is not null and text is not null)"),
        Invariant("a_text_has_its_tokens", "len(token_ids) = tokens_generated"),
        Invariant("a_flip_has_its_fork", "(first_flip_step is null) = (text_fork is null)"),
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
