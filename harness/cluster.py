"""A campaign over the machines of a Ray cluster; Ray is the optional extra ``ray`` and is imported only here.

The tasks are shards: a few cases each, judged in a Ray worker by the same functions as in a lane of this machine. Ray
runs again elsewhere what a lost node had not given back. Records come back as lines of JSON and are written here: the
store is the one that a local run leaves. Shrinking and timing stay on this machine.
"""

import importlib.util
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import lane
from harness.campaign import DEATHS, Lanes
from harness.codec import from_json
from harness.errors import TestbenchError, UsageError
from harness.lane import Item
from harness.records import Record
from harness.verify import Settings

__all__ = ["PIECES", "RayLanes", "ray_lanes", "require_ray"]

PIECES = 4
"""Cases of one task: enough to hide what a task costs, few enough that a lost node costs little."""

_Piece = tuple[Mapping[str, Any], Sequence[str]]


def require_ray() -> None:
    """Refuses to go on without Ray.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine: got 'ray', expected Ray to be installed: pip install 'attest[ray]'")


class RayLanes(Lanes):
    """Lanes on all nodes of a cluster: one per core, or one per GPU.

    Args:
        settings: how cases are run.
        jobs: lanes of this machine, for what stays here.
    """

    def verify(self, items: Iterable[Item]) -> Iterator[Record]:
        """Yields a record per case and candidate, in the order in which their shards are done.

        Raises:
            TestbenchError: a shard failed on every node that took it.
        """
        import ray

        gpus = int(self._settings.device == "cuda")
        task = ray.remote(max_retries=DEATHS, num_cpus=1, num_gpus=gpus)(_verify_shard)
        pieces = ((item.case.to_data(), item.candidates) for item in items)
        pending: list[Any] = []
        for shard in _batches(pieces):
            pending.append(task.remote(self._settings, shard))
            while len(pending) >= 2 * self._slots(ray):
                yield from self._first(ray, pending)
        while pending:
            yield from self._first(ray, pending)

    def _slots(self, ray: Any) -> int:  # noqa: ANN401 - an optional library has no types here
        """Returns how many tasks run at once on the nodes that are there now."""
        resources = ray.cluster_resources()
        return max(1, int(resources.get("GPU" if self._settings.device == "cuda" else "CPU", 1)))

    def _first(self, ray: Any, pending: list[Any]) -> Iterator[Record]:  # noqa: ANN401 - as above
        """Takes the shard that is done first out of those pending and yields its records."""
        done, _ = ray.wait(pending, num_returns=1)
        pending.remove(done[0])
        try:
            lines = ray.get(done[0])
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise TestbenchError(f"ray: a shard failed on every node that took it ({last})") from error
        yield from (from_json(line) for line in lines)


@contextmanager
def ray_lanes(settings: Settings, jobs: int, *, address: str | None = None) -> Iterator[RayLanes]:
    """Gives lanes on a cluster, which they leave at the end of the block.

    Args:
        settings: how cases are run.
        jobs: lanes of this machine.
        address: of the cluster; None means the one that Ray knows, else one of this machine alone.

    Raises:
        TestbenchError: there is no cluster at the address.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        # Workers of a plain checkout have to find it, and what the user's own path holds; on a node where all of it is
        # installed the paths may be missing.
        paths = [
            str(Path(__file__).resolve().parents[1]),
            *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
        ]
        found = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
        try:
            ray.init(
                address=address, runtime_env=found, log_to_driver=False, logging_level="ERROR", include_dashboard=None
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TestbenchError(f"ray: no cluster to join at {address or 'this machine'} ({reason})") from error
    pool = RayLanes(settings, jobs)
    try:
        yield pool
    except BaseException:
        pool.kill()
        raise
    finally:
        if ours:
            ray.shutdown()
    pool.finish()


def _batches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    while batch := list(itertools.islice(pieces, PIECES)):
        yield batch


def _verify_shard(settings: Settings, pieces: Sequence[_Piece]) -> list[str]:
    """Returns the records of a shard, as lines of JSON; runs in a Ray worker."""
    import ray

    resources = ray.cluster_resources()
    lane.open_lane(settings, max(1, int(resources.get("CPU", 1))))
    return [line for data, names in pieces for line in lane.verify_item(data, names)]
