"""Examines candidates on cases, several at once: a lane is a compiling process that one thread at a time talks to."""

import queue
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.codegen.results import CompiledKernel, Examination
from harness.execute import Answer, Worker
from harness.operations.case import Case

__all__ = ["GIGABYTE", "Survey", "Task"]

GIGABYTE = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One case of one candidate on one architecture."""

    candidate: str
    arch: str
    case: Case


class Survey:
    """Compiling processes side by side, ended with the block.

    Args:
        jobs: number of processes.
        plugin: file that candidates come from, None for the installed ones.
        limit_s: seconds that one case may take.
        cache: folder in which Triton keeps what it compiled, for all processes and for later; None means a temporary
            one.
        memory_bytes: that a process may allocate.
        first_setting: whether an autotuned kernel is compiled with the first of its settings alone.
        apart: whether every kernel and setting is compiled in a process apart, which gives back what it took.
    """

    def __init__(
        self, *, jobs: int, plugin: str | None, limit_s: float, cache: Path | None, memory_bytes: int,
        first_setting: bool = False, apart: bool = False,
    ) -> None:  # fmt: skip
        self._options = {
            "plugin": plugin, "first_setting": first_setting, "memory_bytes": memory_bytes if apart else None,
        }  # fmt: skip
        self._temporary = tempfile.TemporaryDirectory(prefix="attest-codegen-", ignore_cleanup_errors=True)
        folder = Path(self._temporary.name) if cache is None else cache.resolve()
        self._all = [_Lane(folder, limit_s, memory_bytes) for _ in range(jobs)]
        self._free: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for lane in self._all:
            self._free.put(lane)
        self._threads = ThreadPoolExecutor(jobs)

    def examine(self, tasks: Sequence[Task], *, probe: bool = False) -> Iterator[Examination]:
        """Yields an examination per task as they end.

        Args:
            tasks: all of one architecture stand together: a process starts anew for another one.
            probe: stop at the first launch instead of compiling: only ``no_kernel`` or not is wanted.
        """
        futures = [self._threads.submit(self._examine, task, probe) for task in tasks]
        for future in as_completed(futures):
            yield future.result()

    def kill(self) -> None:
        """Ends all processes at once; safe in a signal handler."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for lane in self._all:
            lane.kill()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all processes and forgets the temporary folder."""
        if kind is not None:
            self.kill()
        self._threads.shutdown(cancel_futures=True)
        for lane in self._all:
            lane.close()
        self._temporary.cleanup()

    def _examine(self, task: Task, probe: bool) -> Examination:  # noqa: FBT001 - handed through by submit
        lane = self._free.get()
        try:
            answer = lane.ask(task, {**self._options, "probe": probe})
        finally:
            self._free.put(lane)
        return Examination(
            op=task.case.op,
            candidate=task.candidate,
            arch=task.arch,
            case=task.case.to_data(),
            status=answer.status,
            sentence=str(answer.header.get("sentence", "")),
            kernels=tuple(CompiledKernel.from_data(item) for item in answer.header.get("kernels", ())),
            seconds=answer.seconds,
        )


class _Lane:
    """A process for one architecture, replaced when another architecture is asked for."""

    def __init__(self, cache: Path, limit_s: float, memory_bytes: int) -> None:
        self._environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
        self._limit_s = limit_s
        self._memory_bytes = memory_bytes
        self._stack = ExitStack()
        self._worker: Worker | None = None
        self._arch = ""

    def ask(self, task: Task, options: dict[str, Any]) -> Answer:
        if self._worker is None or self._arch != task.arch:
            self.close()
            self._arch = task.arch
            self._worker = self._stack.enter_context(
                Worker(
                    device=task.arch,
                    limit_s=self._limit_s,
                    module="harness.codegen.worker",
                    environment=self._environment,
                    memory_bytes=self._memory_bytes,
                )
            )
        return self._worker.ask({"candidate": task.candidate, "case": task.case.to_data(), **options})

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def close(self) -> None:
        self._stack.close()
        self._worker = None
