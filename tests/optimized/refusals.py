"""The test of a sentence that ``supports`` can say: it is said, and the call itself says it rather than compute."""

import re
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["assert_refused"]


def assert_refused(
    operation: Callable[..., Any], supports: Callable[..., str | None], *tensors: Any, sentence: str, **options: Any
) -> None:
    """Asserts that ``supports`` answers ``sentence``, and that the call, unasked, raises it as a ValueError."""
    assert supports(*tensors, **options) == sentence
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        operation(*tensors, **options)
