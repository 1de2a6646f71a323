"""Errors that a user can act on: where, what, and what to do, in one line."""

from __future__ import annotations

import reprlib
from typing import Any


class UserError(ValueError):
    """A setting or a file that the user can mend. The command line prints it as one line and exits with 2."""


class RowError(ValueError):
    """One row that cannot be trained exactly. It is refused and counted; the other rows go on.

    `reason` is a stable word for machines (`template_error`, `control_token`, ...), `detail` says what is wrong and
    what to do, `message` is the index of the message at fault, where there is one.
    """

    def __init__(self, reason: str, detail: str, message: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.message = message


def nearest(name: str, names: list[str] | tuple[str, ...]) -> str:
    """` Did you mean "x"?` for the name closest to `name`, or an empty string where none is close."""
    from difflib import get_close_matches

    match = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f' Did you mean "{match[0]}"?' if match else ""


def shown(value: Any) -> str:
    """A value for an error message: in one line and not too long, however large or deep it is."""
    shortened = reprlib.Repr()
    shortened.maxlevel, shortened.maxdict, shortened.maxlist = 2, 3, 4
    shortened.maxstring = shortened.maxother = shortened.maxlong = 100
    try:
        return shortened.repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4300 digits
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
