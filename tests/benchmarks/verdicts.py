"""Error rates of verdicts in simulated studies of known truth: `python -m tests.benchmarks.verdicts [STUDIES]`.

The views of the warehouse judge simulated tokens, options and answers. A study draws the true losses of six variants,
the number of its prompts, questions and answers, how much prompts differ, and the noise floor.
"""

import sys

import duckdb
import numpy as np
import polars as pl

from prunescope.pipelines.reporting.advice import BROKEN, CHOOSING_ONLY, NOT_SAFE, SAFE, TOO_LITTLE
from tests.sql.warehouse_builder import Handmade, prepared

VARIANTS, TOKENS = 6, 24
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
        writing = {"dense": 0.0, "noise": 0.0} | {f"v{n}": float(rng.choice(LOSSES)) for n in range(VARIANTS)}
        choosing = {"dense": 0.0, "noise": 0.0} | {f"v{n}": float(rng.choice(CHOOSING)) for n in range(VARIANTS)}
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
            prompts += [(model, recipe, f"p{n}", int(changed[n])) for n in range(n_prompts)]
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
                truth.append((model, recipe, writing[recipe], choosing[recipe]))
    named = ["model", "recipe"]
    frames = {
        "prompts": pl.DataFrame(prompts, [*named, "prompt_id", "changed"], orient="row"),
        "questions": pl.DataFrame(questions, [*named, "prompt_id", "is_changed"], orient="row"),
        "samples": pl.DataFrame(samples, [*named, "kind", "sample_id", "is_right"], orient="row"),
        "scores": pl.DataFrame(scores, [*named, "kind", "score", "n"], orient="row"),
        "variants": pl.DataFrame(variants, [*named, "is_noise"], orient="row"),
    }
    return frames, pl.DataFrame(truth, [*named, "writing", "choosing"], orient="row")


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
    "stg_option_subspace": """
        select model, recipe, model || '@' || recipe as variant, prompt_id, 1.0 as temperature,
            not is_changed as is_argmax_same
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
        return prepared(
            connection,
            "select model, recipe, verdict, evidence_writing, evidence_choosing, is_nearest, measure "
            "from variant_verdict left join variant_ranking using (model, recipe)",
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
    """Return for each statement how often it was made, how often wrongly, and of what share of those it is wrong of."""
    both = verdicts.join(truth, on=["model", "recipe"])
    is_safe = (both["writing"] <= 0.1) & (both["choosing"] <= 0.1)
    is_broken = both["choosing"] >= 0.5
    is_wrong = {
        SAFE: ~is_safe,
        BROKEN: ~is_broken,
        CHOOSING_ONLY: is_safe | is_broken,
        NOT_SAFE: is_safe,
        TOO_LITTLE: is_safe & False,
    }
    table = {}
    for statement, wrong in is_wrong.items():
        is_said = both["verdict"].cast(pl.String) == statement
        false = (is_said & wrong).sum()
        table[statement] = {
            "said": int(is_said.sum()),
            "wrong": int(false),
            "wrong of those said": false / max(1, is_said.sum()),
            "said of those wrong": false / max(1, wrong.sum()),
        }
    # The measure that ranks the variants of a study is either of tokens or of options.
    is_of_tokens = pl.col("measure").cast(pl.String) != "options_changed_share"
    ranked = both.with_columns(loss=pl.when(is_of_tokens).then("writing").otherwise("choosing"))
    missed = (
        ranked.filter(pl.col("is_nearest").is_not_null())
        .group_by("model")
        .agg(truly=((pl.col("loss") == pl.col("loss").min()) & pl.col("is_nearest")).any())
    )
    table["nearest"] = {
        "said": missed.height,
        "wrong": int((~missed["truly"]).sum()),
        "wrong of those said": float((~missed["truly"]).mean()),
        "said of those wrong": float((~missed["truly"]).mean()),
    }
    return table


def main() -> None:
    """Write the error rates as a table."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    frames, truth = simulated(studies)
    lines = [f"{studies} studies of {VARIANTS} variants"]
    lines.append(f"{'statement':22}{'said':>8}{'wrong':>8}{'of those said':>16}{'of where it is wrong':>24}")
    for statement, row in rates(judged(frames), truth).items():
        shares = f"{row['wrong of those said']:16.1%}{row['said of those wrong']:24.1%}"
        lines.append(f"{statement:22}{row['said']:8.0f}{row['wrong']:8.0f}{shares}")
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
