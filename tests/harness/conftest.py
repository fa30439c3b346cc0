"""One worker process and one plug-in for all tests of this folder: a start costs seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.execute import Worker
from harness.lane import close_lane
from tests.harness.here import here_lanes

ODD = Path(__file__).with_name("odd_candidates.py")


@pytest.fixture(scope="session")
def odd_plugin() -> str:
    """Returns the path of the plug-in whose candidates misbehave."""
    return str(ODD)


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """Gives a worker with generous limits."""
    with Worker(limit_s=60.0, memory_bytes=2 << 30) as started:
        yield started


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands run their cases in this process, with one worker for all tests: new lanes cost seconds."""
    monkeypatch.setattr("harness.cli.options.lanes", here_lanes)


@pytest.fixture(scope="session", autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    yield
    close_lane()
