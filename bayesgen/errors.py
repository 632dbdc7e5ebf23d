"""The one error a user is meant to see: a single line that says what, where, and how to mend it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. Its text is one line: key or file, what was found, what was expected."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the valid names where none is near."""
    names = sorted(str(v) for v in valid)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"; valid: {shown}" if names else ""
