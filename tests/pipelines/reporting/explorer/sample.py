"""Handmade documents of a small study, with the columns of the statements, for tests of the page.

Texts go through `prunescope.pipelines.reporting.charts.display_text` as they do in the real documents; ids stay raw.
"""

import base64
import io
import itertools
from typing import Any
from urllib.parse import quote

from PIL import Image

from prunescope.pipelines.reporting.advice import MARKS
from prunescope.pipelines.reporting.charts.display_text import label, prose, visible
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.reporting.explorer.index_document import COLUMNS, figure_entry
from prunescope.pipelines.reporting.explorer.study_documents import document_name
from tests.pipelines.reporting.charts import frames

MODEL = "tiny"
STEPS, LAYERS = 6, 3
SEARCH_FIGURES = ("figures/search", "figures/allocation")
PLACES = [(layer, sublayer) for layer in range(LAYERS) for sublayer in ("attn", "mlp")]
# Columns of rows of layers.
SUBLAYERS = {"layer": [layer for layer, _ in PLACES], "sublayer": [sublayer for _, sublayer in PLACES]}
DENSE = [" The", " sky", "\n", " is", " blue", "."]
PRUNED = [" The", " sky", "\n", " is", " red", " red"]
FIRST_FLIP = 4


def documents(
    model: str = MODEL,
    recipes: tuple[str, ...] = ("wanda-50", "attn-drop-4", "magnitude-50"),
    prompts: tuple[str, ...] = ("sky", "fruit"),
    words: tuple[str, ...] = (),
    marts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all documents of one model. `words` are the pruned text from the first flip on.

    The last recipe has no number and no trace.
    """
    pruned = [*PRUNED[:FIRST_FLIP], *words] if words else PRUNED
    dense = (DENSE * len(pruned))[: len(pruned)] if words else DENSE
    ids = [f"{model}@{recipe}" for recipe in ("dense", *recipes)]
    found: dict[str, Any] = {
        "index": _index(model, recipes, prompts, ids),
        "sql": {
            key: {
                "title": f"Rows of {prose(key)}",
                "sql": f"select *\nfrom {prose(key)}  -- </script>"
                + ("\nwhere model = $1 and pair in $2 and one in $3" * (key[0] == "c")),
                "views": ["view/all"] if key != "view/all" else [],
                "narrow": ["model"],
            }
            for key in ("all", "verdicts", "search/results", "figures/tokens", "view/all", "compare/tasks")
        },
        "figures/tokens": _figure("tokens", marts or {}),
        "figures/hierarchy": _figure("hierarchy", marts or {}),
        "pictures/tokens": {"jpeg": _jpeg()},
        "pictures/hierarchy": {"jpeg": _jpeg()},
    }
    for n, id_ in enumerate(ids):
        found[document_name("variant", id_)] = _variant(id_, n, prompts)
        if 1 < n < len(recipes):
            found[document_name("pair", ids[n - 1], id_)] = _pair(model, recipes[n - 2], recipes[n - 1])
        if 0 < n < len(recipes):
            for prompt in prompts:
                found[document_name("trace", id_, prompt)] = _trace(prompt, dense, pruned)
    found |= {document_name("prompt", label(model), prompt): _prompt(prompt, ids) for prompt in prompts}
    return found


def with_every_figure() -> dict[str, Any]:
    """Return the usual study with the first chart of every figure."""
    found = documents() | {f"figures/{name}": _figure(name, {}) for name in FIGURES}
    entries = [figure_entry(figure) | {"sql": "figures/tokens"} for figure in FIGURES.values()]
    return found | {"index": found["index"] | {"figures": entries}}


def with_every_column(count: int = 123, whole: int = 1234) -> dict[str, Any]:
    """Return the usual study with every number of the overview at its maximum width.

    Counts are at most `count` of `whole`.
    """
    found = documents()
    widest = {"percent": 0.9876, "number": 0.0012345, "count": count}
    index = found["index"] | {"columns": [column._asdict() for column in COLUMNS]}
    for n, entry in enumerate(index["variants"]):
        numbers = {column.name: widest[column.form] / (n + 1) for column in COLUMNS}
        entry["numbers"] = numbers | {column.of: whole for column in COLUMNS if column.of}
        entry["intervals"] = {name: [value, value] for name, value in numbers.items()}
    return found | {"index": index}


def with_search() -> dict[str, Any]:
    """Return the usual study with two results of a search, their table and their figures."""
    found = documents() | {name: _figure(name.removeprefix("figures/"), {}) for name in SEARCH_FIGURES}
    entry = {
        "model": label(MODEL),
        "results": [{"text": f"Result {n} removes weights.", "sql": {"key": "all", "where": {}}} for n in (1, 2)],
        "tables": [
            {
                "title": "The share that each kind of matrix loses",
                "columns": ["remove", "sublayer", "matrix", "share_of_weights", "removed_share"],
                "rows": [[0.2, "attn", "q_proj", 0.5, 0.3], [0.2, "mlp", "up_proj", 0.5, 0.1]],
                "sql": {"key": "all", "where": {}},
            },
            {
                "title": "The sublayers that get each treatment",
                "columns": ["remove", "treatment", "sublayers", "effects_sum_nats", "sublayer_names"],
                "rows": [[0.2, "keep", 2, 0.0, "attn.0 mlp.0"], [0.2, "drop", 1, 0.25, "attn.1"]],
                "sql": {"key": "all", "where": {}},
            },
        ],
    }
    own = [figure_entry(FIGURES[name.removeprefix("figures/")]) | {"sql": "figures/tokens"} for name in SEARCH_FIGURES]
    figures = found["index"]["figures"] + own
    return found | {"index": found["index"] | {"searches": [entry], "figures": figures}}


def with_long_answers() -> dict[str, Any]:
    """Return the usual study with one variant that has more steps than a function call may have arguments."""
    found = documents()
    first, second, *others = found["index"]["variants"]
    long = second | {"spark": {"forced": [2.0] * 150_000, "own": [2.0] * 150_000}}
    return found | {"index": found["index"] | {"variants": [first, long, *others]}}


def with_kinds() -> dict[str, Any]:
    """Return ten prompts: the last one breaks first, every other one is open and has no layers."""
    found = documents(prompts=tuple(f"p{n}" for n in range(10)))
    for n, prompt in enumerate(found["index"]["prompts"]):
        prompt |= {"place_in_order": 10 - n, "kind": ("open", "choice")[n % 2], "has_layers": n % 2 == 1}
    for name, document in found.items():
        if name.startswith("trace/") and int(name[-1]) % 2 == 0:
            document["layers"] = {}
    return found


def hostile() -> dict[str, Any]:
    """Return the study with an attack in every external text; a recipe has the name of JavaScript's prototype."""
    attacks = frames.HOSTILE
    marts = {
        "token_trace": frames.token_trace((attacks[0],), attacks[1:4], prompts=attacks[:2], words=attacks),
        "layer_summary": frames.layer_summary((attacks[0],), attacks[1:4]),
    }
    return documents(
        attacks[0],
        ("__proto__", attacks[1], attacks[3], "a/b%2F?#c", attacks[2]),
        (attacks[0], "constructor"),
        (*attacks, "\ufffd", ""),
        marts,
    )


def _index(model: str, recipes: tuple[str, ...], prompts: tuple[str, ...], ids: list[str]) -> dict[str, Any]:
    variants: list[Any] = []
    for n, (id_, recipe) in enumerate(zip(ids, ("dense", *recipes), strict=True)):
        is_last = n == len(recipes)
        kl: float | None = None if is_last else [0.0, 1.5, 0.25, 11.0, 0.5][n % 5]
        variants.append(
            {
                "id": id_,
                "model": label(model),
                "recipe": label(recipe),
                "method": "wanda",
                "is_dense": n == 0,
                "verdict": None if n == 0 else ["safe", "not safe", "chooses only", "too little evidence"][n % 4],
                "verdict_reason": None if n == 0 else f"because of {label(recipe)}",
                "words": [] if n == 0 else ["fails", "holds", "too little evidence"],
                "where": {"model": model, "recipe": recipe},
                "numbers": {"kl": kl, "same": None if kl is None else 1 / (1 + kl), "looped": n % 2, "prompts": 2},
                "intervals": {"kl": [kl / 2, kl * 2]} if n and kl else {},
                "spark": {"forced": [0.1, None, kl], "own": [0.1, 3.0, 9.0]} if n else {"forced": [], "own": []},
                "kinds": [
                    {
                        "kind": "choice",
                        "prompts": len(prompts),
                        "prompts_flipped": len(prompts) if n else 0,
                        "prompts_collapsed": n % 2,
                        "prompts_graded": len(prompts),
                        "prompts_correct": 0 if n else len(prompts),
                        "flipped_ends": [0.3, 1.0] if n else [0.0, 0.7],
                        "collapsed_ends": [0.0, 0.7],
                        "correct_ends": [0.0, 0.7] if n else [0.3, 1.0],
                        "first_flip_step_median": FIRST_FLIP if n else None,
                        "kl_step0_nats": kl,
                    }
                ],
                "traces": [] if n == 0 or is_last else list(prompts),
            }
        )
    model_text = prose(model)
    return {
        "study": "demo",
        "title": model_text,
        "models": [label(model)],
        "lenses": {label(model): "normed"},
        "prompts": [
            {
                "model": label(model),
                "prompt_id": prompt,
                "name": label(prompt),
                "kind": "choice",
                "prompt_text": prose(prompt),
                "gold": "B",
                "steps": STEPS,
                "place_in_order": m + 1,
                "variants": len(recipes),
                "variants_flipped": len(recipes),
                "variants_collapsed": 1,
                "variants_graded": len(recipes),
                "variants_correct": 0,
                "is_correct_dense": True,
                "first_flip_step_min": FIRST_FLIP,
                "first_flip_step_median": FIRST_FLIP,
                "kl_step0_median_nats": 0.5,
                "has_layers": True,
            }
            for m, prompt in enumerate(prompts)
        ],
        "columns": [
            {
                "name": name,
                "heading": heading,
                "doc": "",
                "form": form,
                "sql": "all",
                "of": of,
                "is_detail": is_detail,
            }
            for name, heading, form, of, is_detail in (
                ("kl", "KL", "number", None, False),
                ("same", "same top token", "percent", None, False),
                ("looped", "looped", "count", "prompts", True),
            )
        ],
        "variants": variants,
        "curves": [
            {
                "id": id_,
                "step": [0, 1, 2],
                "forced": {space: [0.0, None, 0.01] for space in ("h", "z", "p", "kl")},
                "own": {space: [0.0, 0.5, 1.0] for space in ("h", "z", "p", "kl")},
                "fork": {},
            }
            for id_ in ids[1:-1]
        ],
        "marks": MARKS,
        "verdict_basis": "What the losses are of.",
        "verdict_rule": f"The rule.\nOf {model_text}",
        "answers": [
            {
                "model": label(model),
                "question": "Which variants generate safely?",
                "short": model_text,
                "text": f"More of {model_text}",
                "sql": [{"key": "verdicts", "where": {"model": model}}, {"key": "all", "where": {}}],
                "links": [{"text": label(recipes[0]), "href": f"#/variant/{quote(ids[1], safe='')}"}],
            }
        ],
        "claims": [
            {
                "model": label(model),
                "says": f"Claim {n}",
                "measure": "all",
                "verdict": ["holds", "does not hold", "as under rounding", "no null", "too little data"][n % 5],
                "amount": n / 7,
                "amount_low": None if n else 0.0,
                "amount_high": None if n else 1.0,
                "null_amount": 0.5 if n else None,
                "n": 9,
                "units": "variants",
                "sql": {"key": "all", "where": {"model": model}},
            }
            for n in range(15)
        ],
        "claims_by_model": [
            {
                "says": "A shared claim",
                "measure": "all",
                "verdict": "differs",
                "models_hold": label(model),
                "models_fail": "other",
                "models_open": "",
                "sql": {"key": "all", "where": {}},
            }
        ],
        "findings": [
            {
                "model": label(model),
                "theme": "Writing",
                "text": model_text,
                "sql": {"key": "all", "where": {"model": model}},
            }
            for _ in range(2)
        ],
        "searches": [],
        "figures_without_data": [],
        "figures": [
            {
                "name": name,
                "title": FIGURES[name].title,
                "caption": model_text,
                "alt": model_text,
                "sql": "figures/tokens",
            }
            for name in ("tokens", "hierarchy")
        ],
        "facts": [{"name": "seed", "text": model_text}],
        "notes": [],
    }


def _jpeg() -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 24), "white").save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def _figure(name: str, marts: dict[str, Any]) -> dict[str, Any]:
    figure = FIGURES[name]
    drawings = []
    for drawing in itertools.islice(figure.draw_all(frames.ask(figure.query, **marts)), 1):
        spec = drawing.specification | {"description": f"{drawing.title}. alt"}
        drawings.append(
            {"title": drawing.title, "spec": {key: spec[key] for key in spec if key not in {"config", "title"}}}
        )
    return {"name": name, "title": figure.title, "caption": "", "alt": "alt", "sql": "all", "drawings": drawings}


def _curves(scale: float) -> dict[str, Any]:
    rising = [None, *(scale * 10.0 ** (place - 6) for place in range(1, len(PLACES)))]
    return {
        **SUBLAYERS,
        "is_changed": [place % 2 == 0 for place in range(len(PLACES))],
        "one_minus_cos_h_mean": rising,
        "one_minus_cos_z_mean": [0.0 for _ in PLACES],
        "one_minus_cos_p_mean": list(reversed(rising)),
        "kl_mean_nats": rising,
        "kl_noise_p95_nats": [1e-6 for _ in PLACES],
    }


def _variant(id_: str, n: int, prompts: tuple[str, ...]) -> dict[str, Any]:
    return {
        "facts": [{"name": "recipe", "text": prose(id_)}],
        "prompts": [_summary(id_, n, prompt) for prompt in prompts],
        "layers": {"local": _curves(1), "propagated": _curves(3)} if n else {},
        "tables": [
            {
                "title": "Tasks",
                "columns": ["task", "score"],
                "rows": [[prose(id_), 0.987654], ["x", 1234.56], ["y", 1.23456e-7], ["z", None]],
                "sql": "all",
            }
        ],
    }


def _summary(id_: str, n: int, prompt: str) -> dict[str, Any]:
    return {
        "prompt_id": prompt,
        "first_flip_step": FIRST_FLIP if n else None,
        "collapse_step": 5 if n else None,
        "collapse_step_dense": None,
        "answer": prose(id_),
        "answer_dense": "B",
        "is_correct": False,
        "is_correct_dense": True,
        "text_same": "The sky\n is",
        "text_dense": " blue." if n else "",
        "text_pruned": prose(f" red{id_}", 60) if n else "",
        "kl_step0_nats": 0.25,
        "kl_forced_mean_nats": 0.5,
        "kl_own_mean_nats": 2.0,
        "layer": 1,
        "sublayer": "mlp",
        "from_layer": 2,
        "from_sublayer": "attn",
    }


def _prompt(prompt: str, ids: list[str]) -> dict[str, Any]:
    return {
        "texts": [{**_summary(id_, n, prompt), "variant": id_} for n, id_ in enumerate(ids)],
    }


def _pair(model: str, a: str, b: str) -> dict[str, Any]:
    columns = ["statistic", "measured_on", "a", "b", "difference", "difference_low", "difference_high", "only_a_right"]
    row = ["accuracy", f"task {label(a)}", 0.5, 0.75, 0.25, -0.125, 0.625, 3]
    return {
        "tables": [
            {
                "title": "Two variants on the same samples of tasks",
                "columns": [*columns, "only_b_right"],
                "rows": [[*row, 5], [*row[:5], 0.125, 0.375, 0, 2]],
                "sql": {"key": "compare/tasks", "where": {"$1": model, "$2": [{"a": a, "b": b}], "$3": [a, b]}},
            }
        ],
        "missing": [prose(model)],
    }


def _trace(prompt: str, dense: list[str], pruned: list[str]) -> dict[str, Any]:
    count = len(dense)
    shown = [visible(token, 40) for token in pruned]
    steps = {
        "step": list(range(count)),
        "token_text_dense": [visible(token, 40) for token in dense],
        "token_text_pruned": shown,
        "is_same_token": [left == right for left, right in zip(dense, pruned, strict=True)],
        "kl_dense_pruned_nats": [None, *(10.0 ** (step - 5) for step in range(1, count))],
        "entropy_dense_nats": [0.5 for _ in dense],
        "entropy_pruned_nats": [3.0 for _ in dense],
        "margin_dense": [2.0 for _ in dense],
        "margin_pruned": [0.1 for _ in dense],
        "rank_of_dense_top1": [1 + step for step in range(count)],
        "one_minus_cos_h": [0.1 for _ in dense],
        "one_minus_cos_z": [0.01 for _ in dense],
        "one_minus_cos_p": [0.3 for _ in dense],
    }
    top = [
        {"dense": [[visible(dense[step], 40), 0.75, 0.125]], "pruned": [[shown[step], 0.125, 0.5], ["z", 0.0, 1e-5]]}
        for step in range(count)
    ]
    matrix = [[10.0 ** (place - 7) * (1 + step) for step in range(count)] for place, _ in enumerate(PLACES)]
    layers = {
        **SUBLAYERS,
        "is_changed": [True for _ in PLACES],
        "steps": list(range(count)),
        "one_minus_cos_h": matrix,
        "one_minus_cos_z": matrix,
        "one_minus_cos_p": matrix,
        "kl_dense_pruned_nats": matrix,
        "is_top1_same": [[place < 3 for _ in range(count)] for place, _ in enumerate(PLACES)],
    }
    return {
        "text_dense": prose("".join(dense)),
        "text_pruned": prose("".join(pruned)),
        "first_flip_step": FIRST_FLIP,
        "collapse_step": 5,
        "collapse_step_dense": None,
        "answer_end_step": 5,
        "answer_end_step_dense": 3,
        "answer": label(prompt),
        "answer_dense": "B",
        "is_correct": False,
        "is_correct_dense": True,
        "forced": steps,
        "own": steps,
        "top": {"forced": top, "own": top},
        "layers": {"local": layers, "propagated": layers},
        **dict.fromkeys(("layer", "from_layer"), 1),
        **dict.fromkeys(("sublayer", "from_sublayer"), "mlp"),
        "options": {
            "option": ["A", "B"],
            "p_options_dense": [0.25, 0.75],
            "p_options_pruned": [0.6, 0.4],
            "p_full_dense": [0.1, 0.3],
            "p_full_pruned": [0.06, 0.04],
            "rank_dense": [2, 1],
            "rank_pruned": [3, 7],
            "mass_dense": [0.4, 0.4],
            "mass_pruned": [0.1, 0.1],
            "kl_options_dense_pruned_nats": [0.3, 0.3],
            "kl_dense_pruned_nats": [1.0, 1.0],
            "gold": ["B", "B"],
            "is_argmax_same": [False, False],
        },
    }
