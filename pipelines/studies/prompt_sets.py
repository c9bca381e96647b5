"""Prompt sets of a study: records of a file, a shipped set or a data set, turned into prompts. No torch here."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

from pydantic import ValidationError

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import local_path, read_regular, readable
from prunescope.pipelines.core.safe_yaml import key_place
from prunescope.pipelines.core.validation_errors import problems_of
from prunescope.pipelines.corpora.records import (
    SHIPPED,
    Record,
    draw,
    read_records,
    require_unambiguous,
    set_name,
    source_state,
)
from prunescope.pipelines.studies.prompt_records import prompt_of
from prunescope.pipelines.studies.prompts import BUILT_IN_TEMPLATES, MAX_PROMPTS, Prompt, PromptSet

MAX_TEMPLATE_BYTES = 1_000_000


def resolve_prompts(entries: object, where: str, *, is_shipped: bool = False) -> object:
    """Return a study's `prompts` with every set replaced by its prompts.

    `entries` is the content of the YAML: a list of prompts, sets and names of sets, or one set. `where` is the study's
    file, for messages. Sets of a shipped study come from the package, not from local files.

    Raises:
        InputError: an entry, a file or a record is wrong; names file, line, field and fix.
    """
    if entries is None:
        return ()
    if isinstance(entries, (str, dict)):
        entries = [entries]
    if not isinstance(entries, list):
        raise InputError(f"{key_place(where, ['prompts'])}: not a list of prompts and sets; begin each entry with `- `")
    prompts: list[Prompt] = []
    problems: list[str] = []
    for index, entry in enumerate(entries):
        keys: list[str | int] = ["prompts", index]
        fields = {"source": entry} if isinstance(entry, str) else entry
        if isinstance(fields, dict) and fields.get("template") is not None:
            fields = fields | {"template": read_template(fields["template"], where, [*keys, "template"])}
        try:
            if isinstance(fields, dict) and "source" in fields:
                prompts += _set_prompts(PromptSet.model_validate(fields), where, keys, is_shipped)
            else:
                named = {"id": f"prompt-{index + 1}", "origin": key_place(where, keys)}
                prompts.append(Prompt.model_validate(named | fields if isinstance(fields, dict) else fields))
        except ValidationError as error:
            model = PromptSet if isinstance(fields, dict) and "source" in fields else Prompt
            of_entry = problems_of(error, model, fields)
            problems += [f"{key_place(where, [*keys, *location])}: {message}" for location, message in of_entry]
        if len(prompts) > MAX_PROMPTS:
            raise InputError(f"{key_place(where, keys)}: over {MAX_PROMPTS:,} prompts in the study; lower `samples`")
    if problems:
        raise InputError("\n".join(problems))
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        if (other := first.setdefault(prompt.id, prompt)) is not prompt:
            places = " and ".join(dict.fromkeys(one.origin for one in (other, prompt)))
            fix = "rename one of them; in a set, `id: false` makes ids of line numbers, and `name` sets their beginning"
            raise InputError(f"{key_place(where, ['prompts'])}: the id {prompt.id!r} is listed twice ({places}); {fix}")
    return prompts


def read_template(template: object, where: str, keys: Sequence[str | int]) -> object:
    """Return `chat`, `plain`, or the text of the Jinja file that a key names.

    `keys` names the key, as in `key_place`, and `where` the study's file, for messages.

    Raises:
        InputError: the file cannot be read or holds no template.
    """
    if not isinstance(template, str) or template in BUILT_IN_TEMPLATES:
        return template
    try:
        path = local_path(template, "template")
        with readable(str(path), "give `chat`, `plain` or the path of a Jinja file"):
            text = read_regular(path, MAX_TEMPLATE_BYTES, "a template")
    except InputError as error:
        raise InputError(f"{key_place(where, keys)}: {error}") from error
    if "{{" not in text and "{%" not in text:
        raise InputError(
            f"{key_place(where, keys)}: {path}: not a Jinja template; write {{{{ text }}}} where the prompt's text "
            "belongs"
        )
    return text


def _set_prompts(spec: PromptSet, where: str, keys: Sequence[str | int], is_shipped: bool) -> Sequence[Prompt]:
    try:
        if not is_shipped:
            require_unambiguous(spec.source)
        return _cached_prompts(spec, source_state(spec.source))
    except InputError as error:
        raise InputError(f"{key_place(where, keys)}: {error}") from error


@lru_cache(maxsize=64)  # commands read a study several times
def _cached_prompts(spec: PromptSet, state: object) -> tuple[Prompt, ...]:  # noqa: ARG001 (key of the cache)
    records = list(_chosen(spec))
    name = spec.name or re.sub(r"[^A-Za-z0-9._+-]+", "-", set_name(spec.source)).strip("-._+")[:80] or "prompts"
    return tuple(prompt_of(record, spec, name) for record in records)


def _chosen(spec: PromptSet) -> Iterator[Record]:
    records = read_records(spec.source)
    if spec.samples is None:
        yield from islice(records, MAX_PROMPTS)
        if (excess := next(records, None)) is not None:
            raise InputError(f"{excess.place}: over {MAX_PROMPTS:,} prompts; set `samples` to draw some of them")
        return
    drawn = draw(records, spec.samples, spec.seed)
    if len(drawn) < spec.samples:
        what = f"the set {spec.source}" if spec.source in SHIPPED else spec.source
        raise InputError(f"`samples` is {spec.samples}, but {what} has {len(drawn)} prompts; lower it")
    yield from drawn
