"""The command line as `agentsft` starts it, in this process: its exit code and what it prints."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from agentsft.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int | str | None
    out: str
    err: str


def run(*arguments: object) -> Outcome:
    """Run `agentsft ARGUMENTS...`. An exception other than SystemExit is one that users would see as a traceback."""
    out, err = io.StringIO(), io.StringIO()
    code: int | str | None = 0
    with (
        mock.patch.object(sys, "argv", ["agentsft", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


def assert_one_line(outcome: Outcome, *says: str) -> None:
    """Exit code 2, and on stderr one line that a terminal shows as it is, not too long, and that says all of `says`."""
    lines = outcome.err.splitlines()
    assert outcome.code == 2, (outcome.code, outcome.out[-300:], outcome.err[-300:])
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("agentsft: "), lines[0]
    assert len(lines[0]) < 1000, lines[0]
    assert lines[0].isprintable(), repr(lines[0])
    assert "Traceback" not in outcome.out
    for words in says:
        assert words in lines[0], (words, lines[0])
