"""Synthetic frames with the columns of the SQL marts and the sizes of a real study.

Numbers follow the paper's findings: h and z close, p far, feedback after the first flip.
"""

import math
import random
from functools import cache
from itertools import product

import duckdb
import polars as pl

from prunescope.warehouse.catalogue.database import SQL, view_sql
from tests.pipelines.reporting.charts import variant_frames
from tests.pipelines.reporting.charts.variant_frames import MODEL, PROMPTS, RECIPES, each

HOSTILE = (
    "</script><script>document.title='PWNED'</script>",
    "<img src=x onerror=\"document.title='PWNED'\">",
    "\u202egnitirw desrever\u202c",
    "x" * 10_000,
    "a\x00b\x1b[31mred",
    "{{ 7 * 7 }}{% raw %}",
    "'; drop table variants; --",
    "\u2028\u2029</style><!--",
    "日本語のトークンはとても長いです",
    "e\u0301\u0301\u0301\u0301\u0301\u0301\u0301",
)


def _rng(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same frame every time


def _changed(recipe: str, layers: int) -> list[tuple[int, str]]:
    kinds = {"attn-drop": ("attn",), "mlp-drop": ("mlp",)}.get(recipe.rsplit("-", 1)[0], ("attn", "mlp"))
    chosen = [11, 12, 14, 20] if "drop" in recipe else range(layers)
    return [(layer, kind) for kind in kinds for layer in chosen if layer < layers]


def layer_summary(models=(MODEL,), recipes=RECIPES, layers=30) -> pl.DataFrame:
    rng, rows = _rng(1), []
    for model, recipe in each(models, recipes):
        for (layer, sublayer), lens in product(_changed(recipe, layers), ("raw", "normed")):
            size = (3.0 if "drop" in recipe else 1.0) * (8 if layer in (0, layers - 1) else 1)
            row = {"model": model, "recipe": recipe, "layer": layer, "sublayer": sublayer, "scope": "local",
                   "lens": lens, "temperature": 1.0, "is_changed": True, "positions": 75}  # fmt: skip
            for space, defect in {"h": 0.002 * size, "z": 0.0008 * size, "p": min(0.9, 0.05 * size)}.items():
                value = min(1.2, defect * math.exp(rng.gauss(0, 0.5)))
                row[f"one_minus_cos_{space}_mean"] = value
                for part, factor in {"mean": 1, "p10": 1.8, "p90": 0.3}.items():
                    row[f"cos_{space}_{part}"] = 1 - factor * value
            rows.append(row)
    return pl.DataFrame(rows)


def q07_amplification(models=(MODEL,), recipes=RECIPES, layers=30) -> pl.DataFrame:
    """Return factors of the layers that each recipe changed, and of rounding."""
    z, h, p = (pl.col(f"one_minus_cos_{space}_mean") for space in "zhp")
    return layer_summary(models, (*recipes, "noise-bfloat16"), layers).select(
        *("model", "recipe", "layer", "sublayer", "scope", "lens", "temperature"),
        is_noise=pl.col("recipe").str.starts_with("noise"),
        n="positions",
        h_to_z_median=z / h,
        z_to_p_median=p / z,
    )


def estimate_points(models=(MODEL,), per_theorem=750) -> pl.DataFrame:
    rng = _rng(2)
    return pl.DataFrame(
        {"model": model, "recipe": RECIPES[index % len(RECIPES)], "prompt_id": PROMPTS[index % 3],
         "position": 30 + index % 24, "layer": index % 30, "sublayer": ("attn", "mlp")[index % 2],
         "scope": ("local", "propagated")[index // 7 % 2], "lens": ("raw", "normed")[index // 5 % 2],
         "temperature": 1.0, "theorem": theorem,
         "estimate": truth * (1 + (bias - 1) * min(1, truth * 20)) * math.exp(rng.gauss(0, 0.1 + truth / 4)),
         "truth": truth}
        for model in models for theorem, bias in (("T1 h", 1.0), ("T1 z", 1.0), ("T2 p", 1.6), ("T3 KL", 1.05))
        for index in range(per_theorem) for truth in [math.exp(rng.uniform(-16, 1 if theorem == "T3 KL" else -0.1))]
    )  # fmt: skip


def decoding_curve(models=(MODEL,), recipes=RECIPES, prompts=PROMPTS, steps=24) -> pl.DataFrame:
    rng, rows = _rng(3), []
    for model, (number, recipe), prompt in product(models, enumerate(recipes), prompts):
        flip, end = rng.choice([1, 2, 5, 9, None]), rng.choice([14, 20, None])
        for trajectory, step in product(("teacher_forced", "own_text", "fork", "free_running"), range(steps)):
            if flip is None and trajectory == "fork":
                continue
            parted = flip is not None and step > flip and trajectory in {"fork", "free_running"}
            is_equal = rng.random() < 0.05 or (trajectory == "fork" and not parted)
            kl = 0.0 if is_equal else math.exp(rng.gauss(-2 + 0.3 * number, 1)) + 9 * parted
            rows.append(
                {"model": model, "recipe": recipe, "prompt_id": prompt, "trajectory": trajectory, "step": step,
                 "temperature": 1.0, "kl_dense_pruned_nats": kl, "one_minus_cos_h": kl / (kl + 20),
                 "one_minus_cos_z": kl / (kl + 40), "one_minus_cos_p": kl / (kl + 1), "first_flip_step": flip,
                 "answer_end_step": end}
            )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def token_trace(models=(MODEL,), recipes=RECIPES, prompts=PROMPTS, steps=24, words=None) -> pl.DataFrame:
    rng, rows = _rng(4), []
    words = words or (" The", " answer", " is", " apples", ",", " and", "\n\n", " 12",
                      " multiplication", ".", "  ", "s")  # fmt: skip
    for model, prompt in product(models, prompts):
        dense = [rng.choice(words) for _ in range(steps)]
        for recipe in recipes:
            flip = rng.choice([1, 2, 5, 9, None])
            for step in range(steps):
                same = flip is None or step < flip or (step > flip and rng.random() < 0.2)
                pruned = dense[step] if same else rng.choice([word for word in words if word != dense[step]])
                rows.append(
                    {"model": model, "recipe": recipe, "prompt_id": prompt, "step": step,
                     "token_text_dense": dense[step], "token_text_pruned": pruned, "is_same_token": same,
                     "kl_teacher_forced_nats": math.exp(rng.gauss(-2, 1)),
                     "kl_own_text_nats": math.exp(rng.gauss(-3 if same else 1.8, 1)), "first_flip_step": flip}
                )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def option_shift(models=(MODEL,), recipes=RECIPES, questions=("choice-planets",), options="ABCD") -> pl.DataFrame:
    rng, rows = _rng(5), []
    for model, question, recipe in product(models, questions, recipes):
        dense = [5.0, 2.0, 1.0, -1.0, *[0.0] * 20][: len(options)]
        pruned = [value + rng.gauss(0, 0.9) for value in dense]
        sums = [sum(map(math.exp, side)) for side in (dense, pruned)]
        for index, option in enumerate(options):
            p_dense, p_pruned = math.exp(dense[index]) / sums[0], math.exp(pruned[index]) / sums[1]
            rows.append(
                {"model": model, "recipe": recipe, "prompt_id": question, "temperature": 1.0, "option_index": index,
                 "option": option, "p_options_dense": p_dense, "p_options_pruned": p_pruned,
                 "p_full_dense": 0.3 * p_dense, "p_full_pruned": 10 ** -(1 + len(recipe) / 4) * p_pruned,
                 "rank_dense": 3 + index, "rank_pruned": 30 + index, "is_gold": index == 0}
            )  # fmt: skip
    return pl.DataFrame(rows)


def variant_summary(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    rng, rows = _rng(6), []
    for model, recipe in each(models, recipes, dense=True):
        drop, is_pruned = "drop" in recipe, recipe != "dense"
        kl = math.exp(rng.gauss(0, 1)) if is_pruned else 0.0
        rows.append(
            {"model": model, "recipe": recipe, "method": recipe.rsplit("-", 1)[0],
             "parameters_removed_share": is_pruned * (0.05 if drop else 0.39),
             "sublayers_dropped_count": drop * (8 if "block" in recipe else 4), "kl_step0_nats": kl,
             "kl_teacher_forced_mean_nats": kl, "kl_noise_p95_nats": 0.002, "is_below_noise": kl / 2 <= 0.002,
             "first_flip_step_median": 4.0 if is_pruned else None, "prompts": 3, "prompts_flipped": 3 * is_pruned,
             "prompts_collapsed": int(is_pruned), "prompts_graded": 2, "prompts_correct": 2 - is_pruned}
        )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def reference_temperature(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    pairs = each(models, recipes, dense=True)
    return pl.DataFrame({"model": model, "recipe": recipe, "temperature": 1.0} for model, recipe in pairs)


def kld_summary(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    return pl.DataFrame(
        {"model": model, "recipe": recipe, "text_id": "wikitext2", "tokens": 4096, "ppl_dense": 17.0,
         "ppl_pruned": 17.0 + 3 * index, "kl_mean_nats": 0.25 * index, "top1_agreement": 1 - index / 8}
        for model in models for index, recipe in enumerate(("dense", *recipes))
    )  # fmt: skip


def paper_claims(models=(MODEL,)) -> pl.DataFrame:
    return pl.DataFrame(
        {"model": model, "claim": claim, "measure": measure, "amount": amount, "amount_low": low,
         "amount_high": high, "null_amount": null, "n": n, "units": units, "verdict": verdict}
        for model in models
        for claim, measure, amount, low, high, null, n, units, verdict in (
            ("choosing_survives", "agreement", 0.125, 0.05, 0.2, 0.0, 7, "variants", "holds"),
            ("second_order_fits", "T9", 0.9, 0.85, 0.95, None, 1, "methods", "does not hold"),
            ("choice_is_kept", "all", 0.5, None, None, None, 2, "questions", "too little data"),
            ("options_move_less", "all", 0.9, 0.8, 0.95, 0.875, 40, "questions", "as under rounding"),
        )
    )  # fmt: skip


def local_amplification(models=(MODEL,)) -> pl.DataFrame:
    """Return factors of two lenses, beside rounding; under lens raw most positions shrink."""
    return pl.DataFrame(
        {"model": model, "lens": lens, "is_noise": is_noise, "positions": 1200, "one_minus_cos_h": 0.004,
         "one_minus_cos_z": 0.002, "one_minus_cos_p": p, "h_to_z_median": 0.5, "z_to_p_median": factor,
         "share_amplified": share, "share_amplified_low": share - 0.1, "share_amplified_high": share + 0.05}
        for model in models
        for lens, is_noise, p, factor, share in (
            ("raw", False, 0.001, 0.5, 0.4), ("normed", False, 0.03, 15.0, 0.9), ("normed", True, 0.03, 12.0, 0.85)
        )
    )  # fmt: skip


def q13_own_text_against_forced(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    """Return variants that are nearer on their own text the more they are pruned, and free running below the fork."""
    return pl.DataFrame(
        {"model": model, "recipe": recipe, "is_noise": recipe.startswith("noise"),
         "kl_teacher_forced_median_nats": 0.5 + index, "kl_own_text_median_nats": 0.5 + index / 2,
         "kl_free_running_median_nats": 10.0 + index, "kl_fork_median_nats": 13.0,
         "own_text_is": "nearer" if index > 3 else "no difference shown", "free_running_is": "nearer"}
        for model in models for index, recipe in enumerate((*recipes, "noise-bfloat16"))
    )  # fmt: skip


def q16_options_against_vocabulary(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    return pl.DataFrame(
        {"model": model, "recipe": recipe, "temperature": 1.0, "options_share": 0.1 * (index + 1)}
        for model, (index, recipe) in product(models, enumerate(recipes))
    )


def sampling_summary(models=(MODEL,)) -> pl.DataFrame:
    """Return sampled texts of two variants and a noise floor, which parts them least."""
    return pl.DataFrame(
        {"model": model, "recipe": recipe, "is_noise": recipe == "noise-batch", "texts": 16, "texts_flipped": flipped,
         "flips_expected": flipped + 0.4, "first_flip_step_median": step, "first_flip_step_median_expected": expected,
         "equal_share": 1 - flipped / 16}
        for model in models
        for recipe, flipped, step, expected in (
            ("wanda-50", 16, 1.0, 1.5), ("attn-drop-4", 12, 5.0, 4.5), ("noise-batch", 1, None, None)
        )
    )  # fmt: skip


def _bounded(name: str, value: float, width: float) -> dict[str, float]:
    """Return a share with its interval."""
    return {name: value, f"{name}_low": max(0.0, value - width), f"{name}_high": min(1.0, value + width)}


def sampling_survival(models=(MODEL,), recipes=RECIPES, steps=12) -> pl.DataFrame:
    """Return curves that fall by a constant hazard; the measured one scatters around the expected one."""
    rows = []
    for model, recipe in each(models, recipes, dense=True):
        rng, hazard = _rng(len(recipe)), 0.0 if recipe == "dense" else 0.02 * len(recipe)
        for step in range(steps):
            expected = (1 - hazard) ** (step + 1)
            measured = _bounded("equal_share", expected * (1 - 0.2 * hazard * rng.random()), 0.1)
            key = {"model": model, "recipe": recipe, "step": step, "prompts": 6, "texts": 24}
            rows.append(key | measured | _bounded("equal_share_expected", expected, 0.05))
    return pl.DataFrame(rows)


def sequence_kl(models=(MODEL,), recipes=(*RECIPES, "noise-batch")) -> pl.DataFrame:
    """Return distances of every size; the least damaged variant has no interval, and the dense model no distance."""
    return pl.DataFrame(
        {"model": model, "recipe": recipe, "is_noise": recipe.startswith("noise"), "trajectory": trajectory,
         "prompts": 6, "texts": 24, "sequence_kl_nats": value,
         "sequence_kl_low_nats": value / 1.5 if place > 1 else None,
         "sequence_kl_high_nats": value * 1.5 if place > 1 else None, "kl_per_token_nats": value / 32}
        for model in models for place, recipe in enumerate(("dense", *recipes))
        for nats in [{"dense": 0.0, "noise-batch": 3e-4}.get(recipe, 0.4 * 2.0**place)]
        for trajectory, value in (("teacher_forced", nats), ("own_text", 0.6 * nats))
    )  # fmt: skip


def greedy_survival(models=(MODEL,), recipes=RECIPES, steps=12, noise=("noise-batch",)) -> pl.DataFrame:
    """Return curves of greedy texts that fall by a constant hazard, and those of rounding, which hardly do."""
    return pl.DataFrame(
        {"model": model, "recipe": recipe, "is_noise": recipe in noise, "step": step, "texts_at_risk": 40 - step}
        | _bounded("equal_share", (1 - (0.001 if recipe in noise else 0.03) * len(recipe)) ** (step + 1), 0.1)
        for model, recipe, step in product(models, (*recipes, *noise), range(steps))
    )


def q05_bias_by_deviation(models=(MODEL,)) -> pl.DataFrame:
    """Return estimates without bias below the last tenth, and at half of the true value there."""
    return pl.DataFrame(
        {"model": model, "scope": scope, "lens": lens, "temperature": 1.0, "theorem": theorem, "decile": decile,
         "n": 75, "truth_min": 10.0 ** (decile - 8), "truth_max": 4 * 10.0 ** (decile - 8),
         "ratio_median": (1.0 if decile < 10 else 0.5) + bias / 100, "ratio_p10": 0.1, "ratio_p90": 1.2}
        for model in models for scope in ("local", "propagated", "isolated") for lens in ("raw", "normed")
        for bias, theorem in enumerate(("T1 h", "T1 z", "T2 p", "T3 KL")) for decile in range(1, 11)
    )  # fmt: skip


def stg_generations(models=(MODEL,), recipes=RECIPES, prompts=PROMPTS) -> pl.DataFrame:
    rng = _rng(7)
    rows = [
        {"model": model, "recipe": recipe, "prompt_id": prompt,
         "first_flip_step": None if recipe == "dense" else rng.choice([1, 2, None])}
        for model, recipe in each(models, recipes, dense=True) for prompt in prompts
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def stg_top_tokens(models=(MODEL,), recipes=RECIPES, prompts=PROMPTS, steps=3, words=None) -> pl.DataFrame:
    """Return the ten most likely of twelve tokens on each side."""
    rng, rows = _rng(8), []
    words = words or (" The", " answer", " is", ",", "\n\n", " 12", " multiplication", ".", "  ", "s",
                      "<|im_end|>", "日本")  # fmt: skip
    for place in product(models, recipes, prompts, ("teacher_forced", "free_running"), range(steps)):
        both = {}
        for side in ("dense", "pruned"):
            weights = [math.exp(2 * rng.gauss(0, 1)) for _ in words]
            both[side] = [weight / sum(weights) for weight in weights]
        for side, shares in both.items():
            order = sorted(range(len(words)), key=lambda token: -shares[token])
            rows += [
                (*place, side, rank, token, words[token], both["dense"][token], both["pruned"][token])
                for rank, token in enumerate(order[:10], start=1)
            ]
    columns = ("model", "recipe", "prompt_id", "trajectory", "step", "side", "rank", "token_id", "token_text")
    return pl.DataFrame(rows, [*columns, "probability_dense", "probability_pruned"], orient="row")


def noise_variants(models=(MODEL,)) -> pl.DataFrame:
    return pl.DataFrame([{"model": model, "recipe": "noise-batch"} for model in models])


def prompt_summary(models=(MODEL,), prompts=PROMPTS) -> pl.DataFrame:
    """Return the places of the prompts, by name."""
    return pl.DataFrame(
        {"model": model, "prompt_id": prompt, "place_in_order": place, "place_in_kind": place}
        for model, (place, prompt) in product(models, enumerate(sorted(prompts), start=1))
    )


MARTS = (
    prompt_summary,
    q05_bias_by_deviation,
    stg_generations,
    stg_top_tokens,
    noise_variants,
    paper_claims,
    local_amplification,
    q13_own_text_against_forced,
    q16_options_against_vocabulary,
    sampling_summary,
    sampling_survival,
    sequence_kl,
    greedy_survival,
    layer_summary,
    q07_amplification,
    estimate_points,
    decoding_curve,
    token_trace,
    option_shift,
    variant_summary,
    reference_temperature,
    kld_summary,
    *variant_frames.MARTS,
)


@cache
def _usual() -> dict[str, pl.DataFrame]:
    return {mart.__name__: mart() for mart in MARTS}


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Create the macros and the synthetic marts, for all connections of this process."""
    connection = duckdb.connect()
    for path in sorted((SQL / "macros").glob("*.sql")):
        connection.execute(path.read_text(encoding="utf-8"))
    for name, frame in _usual().items():
        connection.register("given", frame)
        connection.execute(f"create table {name} as from given")
    return connection


@cache
def _made_of_others() -> dict[str, str]:
    """Return the SQL of the views over other marts, as they are in a warehouse."""
    names = ("reference_lens", "task_group_scores", "score_means", "variant_scores")
    return {name: view_sql()[name].sql for name in names}


def catalogue(query: str = "", **frames: pl.DataFrame) -> duckdb.DuckDBPyConnection:
    """Open a connection whose marts are the synthetic frames, replaced by the given ones.

    Args:
        query: the one that will be run; without it any may be.
        frames: marts by name.
    """
    connection = _database().cursor()
    for name, frame in frames.items():
        connection.register(name, frame)
    views = _made_of_others()
    if not query or any(name in query for name in views):
        for name, sql in views.items():
            connection.execute(f"create temp view {name} as {sql}")
    return connection


@cache
def _usual_answer(query: str) -> pl.DataFrame:
    with catalogue(query) as connection:
        return connection.sql(query).pl()


def ask(query: str, **frames: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a query; those of the usual marts are queried once."""
    if not frames:
        return _usual_answer(query).clone()
    with catalogue(query, **frames) as connection:
        return connection.sql(query).pl()
