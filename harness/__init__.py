"""Draw cases, run candidates, judge them; importing this package imports nothing heavy."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.testing import check

__all__ = ["check"]


def __getattr__(name: str) -> object:
    """Returns ``harness.check``, which needs torch, when it is first asked for."""
    if name == "check":
        from harness.testing import check

        return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
