"""The process in which templates from other people are rendered: `template_renderer` starts it and sets its limits.

It reads requests and writes answers as lines of JSON, and imports nothing of Prunescope.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def limit(kind: int, value: int) -> None:
    """Lower a limit of this process."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def used_bytes() -> int | None:
    """Return the address space of this process; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return None


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
    limit(resource.RLIMIT_CORE, 0)
    if (used := used_bytes()) is not None:
        limit(resource.RLIMIT_AS, used + memory)
    output = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    output.write("ready\n")
    output.flush()
    for line in sys.stdin:
        # The parent stops a late process; this limit holds where the parent is gone.
        limit(resource.RLIMIT_CPU, int(time.process_time()) + seconds + 1)
        output.write(json.dumps(answer(render, json.loads(line), max_length)) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
