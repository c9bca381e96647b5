"""The process in which templates from other people are rendered: `template_renderer` starts it and sets its limits.

It reads requests and writes answers as lines of JSON, and imports nothing of Prunescope.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

resource: Any = importlib.import_module("resource") if os.name == "posix" else None
Render = Callable[[dict[str, Any]], str]


def chat_renderer() -> Render:
    """Return transformers' renderer of chat templates."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(request: dict[str, Any]) -> str:
        return str(render_jinja_template(chat_template=request["template"], **request["variables"])[0][0])

    return render


def task_renderer() -> Render:
    """Return a renderer with the settings of lm-eval's environment, in a sandbox."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)

    def regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
        return re.sub(pattern, repl, string, count=count)

    environment.filters["regex_replace"] = regex_replace
    return lambda request: environment.from_string(request["template"]).render(**request["variables"])


def limit(kind: str, value: int) -> None:
    """Lower a limit of this process."""
    if resource is not None:
        number = getattr(resource, kind)
        _, hard = resource.getrlimit(number)
        resource.setrlimit(number, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def used_seconds() -> float:
    """Return the processor time of this process."""
    if resource is None:
        return 0.0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return float(usage.ru_utime + usage.ru_stime)


def used_bytes() -> int:
    """Return the address space of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 (before any import)
            return int(file.read().split()[0]) * (resource.getpagesize() if resource is not None else 0)
    except OSError:
        return 0


def answer(render: Render, request: dict[str, Any], max_length: int) -> dict[str, object]:
    """Return the rendered text, or why there is none."""
    try:
        text = render(request)
        text.encode()  # half a surrogate pair is no text
    except MemoryError:
        return {"error": "it needs too much memory"}
    except RecursionError:
        return {"error": "it calls itself without end, or is nested too deep"}
    except Exception as error:
        lines = str(error).strip().splitlines()
        return {"error": (lines[0] if lines else type(error).__name__)[:300]}
    if len(text) > max_length:
        return {"error": f"it writes over {max_length:,} characters"}
    return {"text": text}


def main() -> None:
    """Answer requests until the input ends."""
    kind, seconds, memory, max_length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    render = {"chat": chat_renderer, "task": task_renderer}[kind]()
    limit("RLIMIT_CORE", 0)
    if (used := used_bytes()) > 0:
        limit("RLIMIT_AS", used + memory)
    output = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    output.write("ready\n")
    output.flush()
    for line in sys.stdin:
        # The parent stops a late process; this limit holds where the parent is gone.
        limit("RLIMIT_CPU", int(used_seconds()) + seconds + 1)
        output.write(json.dumps(answer(render, json.loads(line), max_length)) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
