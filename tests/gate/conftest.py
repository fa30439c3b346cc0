"""One worker for the campaigns of this folder: a start costs seconds."""

from collections.abc import Iterator

import pytest

from harness.execute import Worker
from tests.gate.runs import Gated


@pytest.fixture(scope="session")
def gated() -> Iterator[Gated]:
    """Gives what runs small campaigns."""
    with Worker(limit_s=60.0) as worker:
        yield Gated(worker)
