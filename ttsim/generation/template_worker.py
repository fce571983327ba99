"""The process that fills chat templates: a template is a program from outside, so it gets little time and memory.

Run by `ttsim.generation.templates`: one JSON line in for each conversation, one out: {"text": ...} or {"error": ...}.
It imports nothing of ttsim, and ends with its standard input.
"""

from __future__ import annotations

import datetime
import json
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

MEMORY = 768 * 2**20  # bytes of address space; Python and jinja2 take 50 MB
CPU_SECONDS = 20  # over all conversations
LONGEST = 2**22  # characters of a filled template


def main() -> None:
    """Answers lines until the input ends."""
    for kind, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(kind, (limit, limit))
    compiled = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            compiled = compiled or _compile(request["template"])
            text = compiled.render(messages=request["messages"], add_generation_prompt=True, **request["special"])
            answer = {"text": text}
            if len(text) > LONGEST:
                answer = {"error": f"it makes a text of {len(text):,} characters; at most {LONGEST:,} are taken"}
        except MemoryError:
            answer = {"error": f"it needs more than {MEMORY // 2**20} MiB"}
        except Exception as error:  # whatever a template does wrong
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _compile(source: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(source)


class Refused(Exception):
    """The template's own words."""


def _refuse(message: str) -> None:
    raise Refused(message)


if __name__ == "__main__":
    main()
