"""The certified cases of every operation: the smallest shapes that use every feature, in hard and easy regimes."""

from harness.certify import cases_attention, cases_delta_rule, cases_elementwise, cases_layers
from harness.certify.case import Case

__all__ = ["SERIES", "cases_of"]

SERIES = 2
"""How often every case is drawn, each time with other numbers."""

_CASES = cases_elementwise.CASES | cases_attention.CASES | cases_delta_rule.CASES | cases_layers.CASES


def cases_of(op: str, *, series: int = SERIES) -> list[Case]:
    """Returns the cases of one operation, drawn ``series`` times."""
    return [case for number in range(series) for case in _CASES[op](number)]
