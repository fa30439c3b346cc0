"""Lanes without processes: the functions of a lane run in this one, whose worker stays for the tests to come."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from harness import lane
from harness.campaign import Lanes
from harness.verify import Settings

__all__ = ["HereLanes", "here_lanes"]


class HereLanes(Lanes):
    """Does what lanes do, one case after the other."""

    def _each(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, ahead: int | None = None
    ) -> Iterator[Any]:  # fmt: skip
        del ahead
        for each in arguments:
            lane.open_lane(self._settings, self._jobs)
            yield function(*each)


@contextmanager
def here_lanes(settings: Settings, jobs: int) -> Iterator[Lanes]:
    """Gives such lanes; takes the place of ``harness.campaign.lanes``."""
    yield HereLanes(settings, jobs)
