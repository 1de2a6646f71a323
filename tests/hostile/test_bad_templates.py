"""A chat template comes with a model: whatever it does, the command ends soon and says what is wrong with it."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsft.render import sandbox
from tests.hostile import templates
from tests.hostile.command import Outcome, assert_one_line, run
from tests.hostile.rows import GOOD

ERRORS = {**templates.RAISES, **templates.REACHES, **templates.COSTS}
LIMITS = {**templates.BEYOND_TIME, **templates.BEYOND_MEMORY}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n" + GOOD)
    return path


def check(data: Path, model: Path, template: str) -> Outcome:
    path = data.with_name("template.jinja")
    path.write_text(template, encoding="utf-8")
    return run("check", data, "-m", model, "--chat-template", path, "--format", "json")


@pytest.mark.parametrize("name", templates.DOES_NOT_COMPILE)
def test_a_template_that_does_not_compile_is_one_line(name: str, data: Path, smollm2: Path) -> None:
    template, says = templates.DOES_NOT_COMPILE[name]
    assert_one_line(check(data, smollm2, template), "template", "does not compile", "mend it", says)


@pytest.mark.parametrize("name", ERRORS)
def test_a_template_that_fails_refuses_each_row_in_one_line(name: str, data: Path, smollm2: Path) -> None:
    template, says = ERRORS[name]
    outcome = check(data, smollm2, template)
    if outcome.code == 2:  # where the fault is in a constant, which is calculated when the template is compiled
        assert_one_line(outcome, "does not compile", says)
        return
    found = json.loads(outcome.out)
    assert (outcome.code, found["rows"], found["reasons"]) == (1, 2, {"template_error": 2})
    for number, line in enumerate(found["examples"]["template_error"], start=1):
        assert line.startswith(f"{data}:{number}: message 1: the chat template raised: ")
        assert says in line
        assert len(line) < 600
        assert "\n" not in line


@pytest.mark.parametrize("name", LIMITS)
def test_a_template_without_bounds_is_ended(
    name: str, data: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "RENDER_SECONDS", 0.3)
    monkeypatch.setattr(sandbox, "RENDER_BYTES", 2**28)
    started = time.monotonic()
    outcome = check(data, smollm2, LIMITS[name])
    assert time.monotonic() - started < 10
    assert_one_line(outcome, "template", "took more than")


def test_a_row_that_makes_the_template_run_on_is_refused_alone(
    data: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "RENDER_SECONDS", 0.3)
    long = GOOD.replace(b"2+2", b"LONG")
    data.write_bytes(b"\n".join([GOOD, long, GOOD]))
    template = "{% if 'LONG' in messages[0].content %}" + templates.BEYOND_TIME["loops in loops"] + "{% endif %}"
    outcome = check(data, smollm2, template + templates.CHAT)
    found = json.loads(outcome.out)
    assert (outcome.code, found["rows"], found["reasons"]) == (1, 3, {"template_limit": 1})
    assert found["examples"]["template_limit"][0].startswith(f"{data}:2: message 1: the chat template took more than")

    monkeypatch.setattr(sandbox, "RENDER_SECONDS", 0.05)
    data.write_bytes(b"\n".join([GOOD, *[long] * 20]))
    assert_one_line(check(data, smollm2, template + templates.CHAT), "again and again", "mend it")


def test_the_bounds_are_gone_after_a_rendering_and_leave_other_alarms_alone() -> None:
    code = """
import resource, signal, time
from agentsft.render import sandbox
rang = []
signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
sandbox.RENDER_SECONDS = 0.2
template = sandbox.compile_template("{{ x }}")
before = resource.getrlimit(resource.RLIMIT_AS)
signal.setitimer(signal.ITIMER_REAL, 0.5)
for _ in range(1000):
    assert sandbox.limited(lambda: template.render({"x": 1})) == "1"
assert resource.getrlimit(resource.RLIMIT_AS) == before
time.sleep(1)
assert len(rang) == 1, rang
try:
    sandbox.limited(lambda: time.sleep(60))
except sandbox.LimitError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "took more than 0.2 seconds\n"


def test_a_process_that_has_grown_renders_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "RENDER_BYTES", 64 * 2**20)
    limited = sandbox.limited
    assert limited(lambda: len(bytearray(2**20))) == 2**20
    kept = [mmap.mmap(-1, 2**28) for _ in range(4)]
    assert limited(lambda: len(bytearray(2**20))) == 2**20
    with pytest.raises(sandbox.LimitError, match="memory"):
        limited(lambda: len(bytearray(2**27)))
    assert len(kept) == 4
