"""The process in which templates from files are rendered: `template_renderer` starts it and sets its limits.

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

Render = Callable[[str, dict[str, Any]], str]


def chat_renderer() -> Render:
    """Return transformers' renderer of chat templates, which uses Jinja's sandbox."""
    from transformers.utils.chat_template_utils import render_jinja_template

    return lambda template, variables: str(render_jinja_template(chat_template=template, **variables)[0][0])


def task_renderer() -> Render:
    """Return a renderer with the settings and the filter of lm-eval's environment, in a sandbox."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)

    def regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
        return re.sub(pattern, repl, string, count=count)

    environment.filters["regex_replace"] = regex_replace
    return lambda template, variables: environment.from_string(template).render(**variables)


def limit(kind: int, value: int) -> None:
    """Lower a limit of this process."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def answer(render: Render, request: str, max_length: int) -> dict[str, str]:
    """Return the rendered text, or why there is none."""
    try:
        text = render(*json.loads(request))
        text.encode()  # half a surrogate pair is no text
    except MemoryError:
        return {"error": "it needs too much memory"}
    except RecursionError:
        return {"error": "it calls itself without end, or is nested too deep"}
    except Exception as error:
        return {"error": (str(error).strip() or type(error).__name__).splitlines()[0][:300]}
    return {"text": text} if len(text) <= max_length else {"error": f"it writes over {max_length:,} characters"}


def main() -> None:
    """Answer requests until the input ends."""
    seconds, memory, max_length = map(int, sys.argv[2:])
    render = {"chat": chat_renderer, "task": task_renderer}[sys.argv[1]]()
    limit(resource.RLIMIT_CORE, 0)
    if (used := Path("/proc/self/statm")).exists():  # on Linux
        limit(resource.RLIMIT_AS, int(used.read_text("ascii").split()[0]) * resource.getpagesize() + memory)
    output, sys.stdout = sys.stdout, sys.stderr  # a library's prints must not be read as an answer
    output.write("ready\n")
    output.flush()
    for line in sys.stdin:
        limit(resource.RLIMIT_CPU, int(time.process_time()) + seconds + 1)
        output.write(json.dumps(answer(render, line, max_length)) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
