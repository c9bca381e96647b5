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
SPACES = ("h", "z", "p", "kl")
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
    of_all = {"key": "all", "where": {}}
    matrices = [[0.2, "attn", "q_proj", 0.5, 0.3], [0.2, "mlp", "up_proj", 0.5, 0.1]]
    treatments = [[0.2, "keep", 2, 0.0, "attn.0 mlp.0"], [0.2, "drop", 1, 0.25, "attn.1"]]
    entry = {
        "model": label(MODEL),
        "results": [{"text": f"Result {n} removes weights.", "sql": of_all} for n in (1, 2)],
        "tables": [
            {"title": title, "columns": columns.split(), "rows": rows, "sql": of_all}
            for title, columns, rows in (
                ("The share that each kind of matrix loses", "remove sublayer matrix weights removed_share", matrices),
                ("The sublayers that get each treatment", "remove treatment sublayers sum sublayer_names", treatments),
            )
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
    text, name, of_all = prose(model), label(model), {"key": "all", "where": {"model": model}}
    verdicts = ["holds", "does not hold", "as under rounding", "no null", "too little data"]
    by_prompt = dict.fromkeys(("variants", "variants_flipped", "variants_graded"), len(recipes))
    return {
        "study": "demo",
        "title": text,
        "models": [name],
        "lenses": {name: "normed"},
        "prompts": [
            {"model": name, "prompt_id": prompt, "name": label(prompt), "kind": "choice", "prompt_text": prose(prompt),
             "gold": "B", "steps": STEPS, "place_in_order": m + 1, **by_prompt, "variants_collapsed": 1,
             "variants_correct": 0, "is_correct_dense": True, "first_flip_step_min": FIRST_FLIP,
             "first_flip_step_median": FIRST_FLIP, "kl_step0_median_nats": 0.5, "has_layers": True}
            for m, prompt in enumerate(prompts)
        ],
        "columns": [
            {"name": column, "heading": heading, "doc": "", "form": form, "sql": "all", "of": of, "is_detail": bool(of)}
            for column, heading, form, of in (
                ("kl", "KL", "number", None),
                ("same", "same top token", "percent", None),
                ("looped", "looped", "count", "prompts"),
            )
        ],
        "variants": [
            _variant_entry(model, n, id_, recipe, prompts, is_last=n == len(recipes))
            for n, (id_, recipe) in enumerate(zip(ids, ("dense", *recipes), strict=True))
        ],
        "curves": [
            {"id": id_, "step": [0, 1, 2], "fork": {}, "forced": {space: [0.0, None, 0.01] for space in SPACES},
             "own": {space: [0.0, 0.5, 1.0] for space in SPACES}}
            for id_ in ids[1:-1]
        ],
        "marks": MARKS,
        "verdict_basis": "What the losses are of.",
        "verdict_rule": f"The rule.\nOf {text}",
        "answers": [
            {"model": name, "question": "Which variants generate safely?", "short": text, "text": f"More of {text}",
             "sql": [of_all | {"key": "verdicts"}, {"key": "all", "where": {}}],
             "links": [{"text": label(recipes[0]), "href": f"#/variant/{quote(ids[1], safe='')}"}]}
        ],
        "claims": [
            {"model": name, "says": f"Claim {n}", "measure": "all", "verdict": verdicts[n % 5], "amount": n / 7,
             "amount_low": None if n else 0.0, "amount_high": None if n else 1.0, "null_amount": 0.5 if n else None,
             "n": 9, "units": "variants", "sql": of_all}
            for n in range(15)
        ],
        "claims_by_model": [
            {"says": "A shared claim", "measure": "all", "verdict": "differs", "models_hold": name,
             "models_fail": "other", "models_open": "", "sql": {"key": "all", "where": {}}}
        ],
        "findings": 2 * [{"model": name, "theme": "Writing", "text": text, "sql": of_all}],
        "searches": [],
        "figures_without_data": [],
        "figures": [
            {"name": figure, "title": FIGURES[figure].title, "caption": text, "alt": text, "sql": "figures/tokens"}
            for figure in ("tokens", "hierarchy")
        ],
        "facts": [{"name": "seed", "text": text}],
        "notes": [],
    }  # fmt: skip


def _variant_entry(
    model: str, n: int, id_: str, recipe: str, prompts: tuple[str, ...], *, is_last: bool
) -> dict[str, Any]:
    kl: float | None = None if is_last else [0.0, 1.5, 0.25, 11.0, 0.5][n % 5]
    verdict = {
        "verdict": ["safe", "not safe", "chooses only", "too little evidence"][n % 4],
        "verdict_reason": f"because of {label(recipe)}",
        "words": ["fails", "holds", "too little evidence"],
        "spark": {"forced": [0.1, None, kl], "own": [0.1, 3.0, 9.0]},
    }
    count, some, none = len(prompts), [0.3, 1.0], [0.0, 0.7]
    kind = {"kind": "choice", "prompts": count, "prompts_flipped": count if n else 0, "prompts_collapsed": n % 2,
            "prompts_graded": count, "prompts_correct": 0 if n else count, "flipped_ends": some if n else none,
            "collapsed_ends": none, "correct_ends": none if n else some,
            "first_flip_step_median": FIRST_FLIP if n else None, "kl_step0_nats": kl}  # fmt: skip
    of_dense = {"verdict": None, "verdict_reason": None, "words": [], "spark": {"forced": [], "own": []}}
    return {
        "id": id_,
        "model": label(model),
        "recipe": label(recipe),
        "method": "wanda",
        "is_dense": n == 0,
        "where": {"model": model, "recipe": recipe},
        "numbers": {"kl": kl, "same": None if kl is None else 1 / (1 + kl), "looped": n % 2, "prompts": 2},
        "intervals": {"kl": [kl / 2, kl * 2]} if n and kl else {},
        "kinds": [kind],
        "traces": [] if n == 0 or is_last else list(prompts),
        **(verdict if n else of_dense),
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
        "prompt_id": prompt, "first_flip_step": FIRST_FLIP if n else None, "collapse_step": 5 if n else None,
        "collapse_step_dense": None, "answer": prose(id_), "answer_dense": "B", "is_correct": False,
        "is_correct_dense": True, "text_same": "The sky\n is", "text_dense": " blue." if n else "",
        "text_pruned": prose(f" red{id_}", 60) if n else "", "kl_step0_nats": 0.25, "kl_forced_mean_nats": 0.5,
        "kl_own_mean_nats": 2.0, "layer": 1, "sublayer": "mlp", "from_layer": 2, "from_sublayer": "attn",
    }  # fmt: skip


def _prompt(prompt: str, ids: list[str]) -> dict[str, Any]:
    return {"texts": [{**_summary(id_, n, prompt), "variant": id_} for n, id_ in enumerate(ids)]}


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
    shown_dense, shown = ([visible(token, 40) for token in tokens] for tokens in (dense, pruned))
    constants = {
        "entropy_dense_nats": 0.5, "entropy_pruned_nats": 3.0, "margin_dense": 2.0, "margin_pruned": 0.1,
        "one_minus_cos_h": 0.1, "one_minus_cos_z": 0.01, "one_minus_cos_p": 0.3,
    }  # fmt: skip
    steps = {
        "step": list(range(count)),
        "token_text_dense": shown_dense,
        "token_text_pruned": shown,
        "is_same_token": [left == right for left, right in zip(dense, pruned, strict=True)],
        "kl_dense_pruned_nats": [None, *(10.0 ** (step - 5) for step in range(1, count))],
        "rank_of_dense_top1": [1 + step for step in range(count)],
        **{name: [value] * count for name, value in constants.items()},
    }
    top = [
        {"dense": [[one, 0.75, 0.125]], "pruned": [[other, 0.125, 0.5], ["z", 0.0, 1e-5]]}
        for one, other in zip(shown_dense, shown, strict=True)
    ]
    matrix = [[10.0 ** (place - 7) * (1 + step) for step in range(count)] for place, _ in enumerate(PLACES)]
    layers = {
        **SUBLAYERS,
        "is_changed": [True for _ in PLACES],
        "steps": list(range(count)),
        **dict.fromkeys((*(f"one_minus_cos_{space}" for space in "hzp"), "kl_dense_pruned_nats"), matrix),
        "is_top1_same": [[place < 3] * count for place, _ in enumerate(PLACES)],
    }
    options = {
        "option": ["A", "B"], "p_options_dense": [0.25, 0.75], "p_options_pruned": [0.6, 0.4],
        "p_full_dense": [0.1, 0.3], "p_full_pruned": [0.06, 0.04], "rank_dense": [2, 1], "rank_pruned": [3, 7],
        "mass_dense": [0.4, 0.4], "mass_pruned": [0.1, 0.1], "kl_options_dense_pruned_nats": [0.3, 0.3],
        "kl_dense_pruned_nats": [1.0, 1.0], "gold": ["B", "B"], "is_argmax_same": [False, False],
    }  # fmt: skip
    return {
        "text_dense": prose("".join(dense)), "text_pruned": prose("".join(pruned)), "first_flip_step": FIRST_FLIP,
        "collapse_step": 5, "collapse_step_dense": None, "answer_end_step": 5, "answer_end_step_dense": 3,
        "answer": label(prompt), "answer_dense": "B", "is_correct": False, "is_correct_dense": True,
        "forced": steps, "own": steps, "top": {"forced": top, "own": top},
        "layers": {"local": layers, "propagated": layers}, "options": options,
        "layer": 1, "from_layer": 1, "sublayer": "mlp", "from_sublayer": "mlp",
    }  # fmt: skip
