"""Words and numbers as a reader sees them: hostile text made harmless to look at, numbers with three digits."""

import math
import unicodedata
from collections.abc import Mapping

from harness.records import Verdict

__all__ = ["MISSING", "number", "percent", "place", "plain", "plural", "tone"]

MISSING = "\N{EN DASH}"
"""Stands where nothing was measured."""

_MINUS = "\N{MINUS SIGN}"
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"})


def plain(value: object, *, limit: int | None = None, keep_lines: bool = False) -> str:
    r"""Returns text that shows what it holds: control, format and surrogate characters become escapes.

    Args:
        value: anything with a ``str``.
        limit: longest text returned; a longer one is cut and says how long it was. None cuts nothing.
        keep_lines: whether ``\n`` and ``\t`` stay as they are.
    """
    text = str(value)
    full = len(text)
    cut = limit is not None and full > limit
    if cut:
        text = text[:limit]
    if not text.isprintable():
        text = "".join(_visible(letter, keep_lines=keep_lines) for letter in text)
    return f"{text}… ({full:,} characters)" if cut else text


def _visible(letter: str, *, keep_lines: bool) -> str:
    if letter == " " or letter.isalnum() or (keep_lines and letter in "\n\t"):
        return letter
    if unicodedata.category(letter) not in _INVISIBLE:
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def number(value: float | None, *, digits: int = 3) -> str:
    """Returns the number with so many significant digits: ``0.0123``, ``1,230``, ``1.23e-7``, ``∞``, or a dash."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    shown = f"{value:,.{max(0, digits - 1 - power)}f}" if -4 < power < 6 else f"{mantissa}e{power}"
    return shown.replace("-", _MINUS, 1) if value < 0 else shown


def percent(value: float | None) -> str:
    """Returns a share as a percentage with three significant digits, without the sign."""
    return number(None if value is None else 100 * value)


def plural(count: int, noun: str) -> str:
    """Returns ``"1 case"`` or ``"12,345 cases"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def place(index: Mapping[str, int]) -> str:
    """Returns an index by named axes as words: ``"batch 0, token 3"``; a dash where there is none."""
    return ", ".join(f"{plain(axis, limit=40)} {position}" for axis, position in index.items()) or MISSING


def tone(verdict: Verdict) -> str:
    """Returns how a verdict is to be shown: ``"pass"``, ``"quiet"``, ``"warn"`` or ``"fail"``."""
    if verdict.is_failure:
        return "fail"
    tones = {Verdict.PASS: "pass", Verdict.UNSUPPORTED: "quiet"}
    return tones.get(verdict, "warn")
