"""Chat templates run apart, with little time and memory, and a template's fault is one line."""

import pytest

from ttsim.generation import templates
from ttsim.models.checkpoints.source import CheckpointError

MESSAGES = [{"role": "user", "content": "Hi é"}]


def test_templates_are_filled():
    template = templates.Template(
        "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}", {"bos_token": "<s>"}
    )
    assert template.render(MESSAGES) == "<s>[Hi é]"
    assert template.render([*MESSAGES, *MESSAGES]) == "<s>[Hi é][Hi é]"
    assert templates.Template("{{ strftime_now('%Y') }}", {}).render(MESSAGES).isdecimal()
    template.close()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ 'a' * 10**10 }}", "needs more than 768 MiB"),
        ("{{ '%1000000000d' % 1 }}", "needs more than|takes more"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[5].x.y }}", "UndefinedError"),
        ("{{ raise_exception('roles\x1b[31m must alternate') }}", r"refuses the prompt: roles\?\[31m must alternate"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "can't be filled"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
        ("{{ 'ab' * 3000000 }}", "at most 4,194,304 are taken"),
    ],
)
def test_a_template_s_fault_is_one_line(source, words):
    template = templates.Template(source, {})
    with pytest.raises(CheckpointError, match=words) as error:
        template.render(MESSAGES)
    assert str(error.value).isprintable()
    template.close()


def test_a_template_that_never_ends_is_ended(monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    template = templates.Template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", {})
    with pytest.raises(CheckpointError, match="takes more than 1 s"):
        template.render(MESSAGES)
