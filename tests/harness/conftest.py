"""One worker process and one plug-in for all tests of this folder: a start costs seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.execute import Worker

ODD = Path(__file__).with_name("odd_candidates.py")


@pytest.fixture(scope="session")
def odd_plugin() -> str:
    """Returns the path of the plug-in whose candidates misbehave."""
    return str(ODD)


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """Gives a worker with a generous limit."""
    with Worker(limit_s=60.0) as started:
        yield started
