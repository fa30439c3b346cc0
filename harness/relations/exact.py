"""Other inputs whose effect on the result is known bit by bit.

A property changes the inputs of a case, and compares what came of them with what came of the case. It names a control:
something that had to change, or to be other than trivial, for the comparison to mean anything.
"""

from collections.abc import Mapping

from harness.relations.outcome import Exact
from harness.relations.tokens import TOKENS
from harness.relations.values import VALUES

__all__ = ["EXACT"]

EXACT: Mapping[str, Exact] = {**TOKENS, **VALUES}
"""The exact properties by name."""
