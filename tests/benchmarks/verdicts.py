"""Error rates of verdicts in simulated studies of known truth: `python -m tests.benchmarks.verdicts [STUDIES]`.

The views of the warehouse judge simulated tokens, texts, options and answers. A study draws the true losses of six
variants, the number of its prompts, questions and answers, how much prompts differ, and the noise floor.
"""

import sys

import duckdb
import numpy as np
import polars as pl
from tabulate import tabulate

from prunescope.pipelines.core.verdict_rule import TOLERANCE
from prunescope.warehouse.catalogue.database import SQL
from tests.sql.warehouse_builder import Handmade, prepared

VARIANTS, TOKENS = 6, 24
MEASURES = ("fidelity", "writing", "choosing", "alive")
LOSSES = (0.0, 0.02, 0.05, 0.08, 0.09, 0.11, 0.12, 0.15, 0.3, 0.6)
CHOOSING = (0.0, 0.02, 0.05, 0.08, 0.11, 0.15, 0.3, 0.45, 0.55, 0.8)
PROMPTS, QUESTIONS, ANSWERS = (4, 12, 36, 100), (4, 12, 40, 100, 300), (0, 4, 40, 200)
SPREADS, FLOORS, SKILLS = (0.02, 0.1, 0.3), (0.0, 0.01, 0.03), (0.3, 0.6, 0.9)


def simulated(studies: int, seed: int = 0) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """Return the rows of the views that are replaced, and the truth of every variant."""
    rng = np.random.default_rng(seed)
    prompts, questions, samples, scores, variants, truth = [], [], [], [], [], []
    for study in range(studies):
        model = f"s{study}"
        n_prompts, n_questions, n_answers = (int(rng.choice(sizes)) for sizes in (PROMPTS, QUESTIONS, ANSWERS))
        spread, floor, skill = (float(rng.choice(values)) for values in (SPREADS, FLOORS, SKILLS))
        writing, choosing, loops = (
            {"dense": 0.0, "noise": 0.0} | {f"v{n}": float(rng.choice(losses)) for n in range(VARIANTS)}
            for losses in (LOSSES, CHOOSING, LOSSES)
        )
        is_right = rng.random(n_prompts) < skill
        # Prompts are hard for all variants alike, and a little by chance.
        difficulty = rng.random(n_prompts)
        right_dense = {kind: rng.random(n_answers) < (skill if kind == "generative" else 0.25 + 0.75 * skill)
                       for kind in ("generative", "non_generative")}  # fmt: skip
        for recipe in writing:
            is_dense = recipe == "dense"
            rate = 0.0 if is_dense else writing[recipe] + floor
            order = np.argsort(np.argsort(difficulty + 0.3 * rng.random(n_prompts)))
            rates = np.sort(rng.beta(rate / spread, (1 - rate) / spread, n_prompts))[order] if rate else 0 * difficulty
            changed = rng.binomial(TOKENS, rates)
            looped = rng.random(n_prompts) < (0.0 if is_dense else loops[recipe] + floor)
            # A right answer is lost at the rate of writing, and a few wrong ones are gained.
            keeps = 1.0 if is_dense else 1 - writing[recipe] - 0.05 * (1 - skill) / skill
            right = rng.random(n_prompts) < np.where(is_right, keeps, 0.0 if is_dense else 0.05)
            prompts += [
                (model, recipe, f"p{n}", int(changed[n]), bool(looped[n]), bool(right[n])) for n in range(n_prompts)
            ]
            flips = rng.random(n_questions) < (0.0 if is_dense else choosing[recipe] + floor * (choosing[recipe] < 1))
            questions += [(model, recipe, f"q{n}", bool(flips[n])) for n in range(n_questions)]
            variants.append((model, recipe, recipe == "noise"))
            for kind, losses in (("generative", writing), ("non_generative", choosing)):
                if not n_answers:
                    continue
                guess = 0.0 if kind == "generative" else 0.25
                dense_score = guess + (1 - guess) * skill
                score = guess + (1 - losses[recipe]) * (dense_score - guess)
                # A right answer is lost, a wrong one gained; the dense model's share is kept in expectation.
                gain = 0.0 if is_dense else 0.3 * (1 - dense_score) * losses[recipe]
                keeps = (score - gain * (1 - dense_score)) / dense_score
                right = np.where(right_dense[kind], rng.random(n_answers) < keeps, rng.random(n_answers) < gain)
                samples += [(model, recipe, kind, f"a{n}", bool(right[n])) for n in range(n_answers)]
                scores.append((model, recipe, kind, float(right.mean()), n_answers))
            if recipe not in ("dense", "noise"):
                truth.append((model, recipe, writing[recipe], writing[recipe], choosing[recipe], loops[recipe]))
    named = ["model", "recipe"]
    frames = {
        "prompts": pl.DataFrame(prompts, [*named, "prompt_id", "changed", "loops", "is_correct"], orient="row"),
        "questions": pl.DataFrame(questions, [*named, "prompt_id", "is_changed"], orient="row"),
        "samples": pl.DataFrame(samples, [*named, "kind", "sample_id", "is_right"], orient="row"),
        "scores": pl.DataFrame(scores, [*named, "kind", "score", "n"], orient="row"),
        "variants": pl.DataFrame(variants, [*named, "is_noise"], orient="row"),
    }
    return frames, pl.DataFrame(truth, [*named, *(f"true_{measure}" for measure in MEASURES)], orient="row")


# The staging views' own columns, those that a verdict does not read left NULL.
_REPLACED = {
    "stg_variants": """
        select model, recipe, model || '@' || recipe as variant, recipe as method, is_noise
        from drawn_variants""",
    "stg_decoding_steps": f"""
        select model, recipe, model || '@' || recipe as variant, prompt_id, 'teacher_forced' as trajectory,
            cast(step as integer) as step, 1.0 as temperature, step >= changed as is_top1_same,
            cast(changed as float) as kl_dense_pruned_nats
        from drawn_prompts cross join range({TOKENS}) as steps (step)""",
    "stg_generations": """
        select model, recipe, model || '@' || recipe as variant, prompt_id, if(loops, 5, null) as collapse_step,
            [1, 2, 3] as token_ids, is_correct
        from drawn_prompts""",
    "stg_option_subspace": """
        select model, recipe, model || '@' || recipe as variant, prompt_id, 1.0 as temperature,
            if(hash(prompt_id) % 2 = 0, 'A', 'B') as argmax_dense, not is_changed as is_argmax_same
        from drawn_questions""",
    "stg_task_scores": """
        select model, recipe, kind as task, kind as task_group, kind, 'hash' as task_hash, n, true as is_higher_better,
            if(kind = 'generative', 'exact_match', 'accuracy') as metric, score as value, 0.1 as standard_error,
            score, 0.1 as score_se
        from drawn_scores""",
    "stg_task_samples": """
        select model, recipe, kind as task, sample_id, sample_id as sample_hash, cast(null as varchar) as verdict,
            if(kind = 'generative', 'greedy', 'full_text') as scoring, if(is_right, 'A', 'B') as answer,
            if(is_right, 'A', 'B') as answer_lenient, is_right as is_correct, is_right as is_correct_lenient,
            0 as target_index, ['A', 'B', 'C', 'D'] as options,
            if(kind = 'generative', null, if(is_right, [-1.0, -2.0, -3.0, -4.0], [-2.0, -1.0, -3.0, -4.0]))
                as option_log_likelihoods,
            if(kind = 'generative', null, if(is_right, [-1.0, -2.0, -3.0, -4.0], [-2.0, -1.0, -3.0, -4.0]))
                as option_log_likelihoods_per_byte
        from drawn_samples""",
}


def judged(frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the verdicts and ranks of the simulated variants."""
    with Handmade().opened() as connection:
        for name, frame in frames.items():
            connection.register(f"drawn_{name}", frame.to_arrow())
        for name, query in _REPLACED.items():
            _replace(connection, name, query)
        statement = (SQL / "explorer" / "verdicts.sql").read_text("utf-8")
        return prepared(
            connection,
            f"select *, {', '.join(MEASURES)}, is_nearest from ({statement}) left join variant_ranking "
            "using (model, recipe)",
        ).pl()


def _replace(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    columns = connection.sql(f"describe {name}").fetchall()
    own = {column[0] for column in connection.sql(f"describe {query}").fetchall()}
    listed = ", ".join(
        f"cast({column[0] if column[0] in own else 'null'} as {column[1]}) as {column[0]}" for column in columns
    )
    connection.execute(f"create table simulated_{name} as select {listed} from ({query})")
    connection.execute(f"create or replace view {name} as select * from simulated_{name}")


def rates(verdicts: pl.DataFrame, truth: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Return for each statement how often it was made, how often wrongly, and of what share of those it is wrong of.

    The last two lines count studies: those with a statement for all variants together that is wrong of one of them, and
    those whose nearest variants do not include the truly nearest.
    """
    both = verdicts.join(truth, on=["model", "recipe"])
    table = {}
    for measure in MEASURES:
        is_lost = both[f"true_{measure}"] > TOLERANCE
        for word, wrong in (("holds", is_lost), ("fails", ~is_lost)):
            table[f"{measure} {word}"] = _counted(both[measure].cast(pl.String) == word, wrong)
    lost = {measure: both[f"true_{measure}"] > TOLERANCE for measure in MEASURES}
    lost["quality"] = lost["writing"] | lost["choosing"]
    wrong_together = pl.Series([False]).extend_constant(value=False, n=both.height - 1)
    for measure in ("fidelity", "quality", "alive"):
        said = both[f"{measure}_together"].cast(pl.String)
        wrong_together |= ((said == "holds") & lost[measure]) | ((said == "fails") & ~lost[measure])
    by_study = both.with_columns(wrong=wrong_together).group_by("model").agg(pl.col("wrong").any())
    table["together"] = _counted(by_study["wrong"] | True, by_study["wrong"])
    nearest = (
        both.filter(pl.col("is_nearest").is_not_null())
        .group_by("model")
        .agg(truly=((pl.col("true_fidelity") == pl.col("true_fidelity").min()) & pl.col("is_nearest")).any())
    )
    table["nearest"] = _counted(nearest["truly"] | True, ~nearest["truly"])
    return table


def _counted(is_said: pl.Series, is_wrong: pl.Series) -> dict[str, float]:
    false = (is_said & is_wrong).sum()
    return {
        "said": int(is_said.sum()),
        "wrong": int(false),
        "wrong of those said": false / max(1, is_said.sum()),
        "said of those wrong": false / max(1, is_wrong.sum()),
    }


def main() -> None:
    """Write the error rates as a table."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    frames, truth = simulated(studies)
    rows = [{"statement": statement, **row} for statement, row in rates(judged(frames), truth).items()]
    table = tabulate(rows, headers="keys", floatfmt=".1%")
    sys.stdout.write(f"{studies} studies of {VARIANTS} variants\n{table}\n")


if __name__ == "__main__":
    main()
