"""Owns a worker process: starts it, asks it with a time limit, replaces it when it crashes or hangs."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from harness.errors import TestbenchError
from harness.nursery import Child, NurseryError, forget, nursery_for
from harness.wire import receive, send

__all__ = ["Answer", "Worker"]

_START_LIMIT_S = 120.0
_MODULE = "harness.worker"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from a worker.

    Attributes:
        status: ``ok``, ``unsupported``, ``error``, ``timeout`` or ``crash``.
        header: everything that is not a tensor.
        tensors: outputs and gradients by name.
        seconds: time of the round trip.
    """

    status: str
    header: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


class Worker:
    """A worker process that is started on first use and again after it died.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: threads of the worker's torch.
        limit_s: seconds that one request may take.
        module: the program that the worker runs.
        environment: environment variables of the worker beyond those of this process.
        memory_bytes: memory that the worker may take, so that a candidate without measure ends its own case and not
            the machine; None means all.

    Attributes:
        hung: by candidate, how often in a row it gave no answer in time.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        threads: int = 1,
        limit_s: float = 120.0,
        module: str = _MODULE,
        environment: Mapping[str, str] | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._device = device
        self._threads = threads
        self._limit_s = limit_s
        self._module = module
        self._own_environment = dict(environment or {})
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | Child | None = None
        self._connection: Connection | None = None
        self.hung: Counter[str] = Counter()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker does

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Returns the worker's answer; a crash or a time-out ends the worker, and the next request starts another.

        Raises:
            TestbenchError: no worker can be started.
        """
        connection = self._connected()
        self._output.seek(0)
        self._output.truncate()  # last words are those of this request
        started = time.perf_counter()
        try:
            send(connection, request)
            if not connection.poll(self._limit_s):
                self.close()
                sentence = f"no answer within {self._limit_s:g} s"
                return Answer("timeout", {"sentence": sentence}, {}, time.perf_counter() - started)
            header, tensors = receive(connection)
            if header["status"] == "error" and self._device == "cuda":
                self.close()  # an illegal access poisons the context: every later call of this process would fail
        except (EOFError, OSError):
            sentence = self._last_words()
            self.close()
            return Answer("crash", {"sentence": sentence}, {}, time.perf_counter() - started)
        return Answer(str(header["status"]), header, tensors, time.perf_counter() - started)

    def kill(self) -> None:
        """Ends the worker at once; safe in a signal handler."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended in this moment
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the worker and everything that it started."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the worker."""
        self.close()
        self._output.close()

    def _connected(self) -> Connection:
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = self._born(theirs.fileno()) or self._started(theirs.fileno())
        self._connection = Connection(ours.detach())
        self._limit_memory(self._process.pid)
        if not self._connection.poll(_START_LIMIT_S):
            self.close()
            raise TestbenchError(f"worker: no sign of life within {_START_LIMIT_S:g} s")
        try:
            receive(self._connection)
        except (EOFError, OSError) as error:
            words = self._last_words()
            self.close()
            raise TestbenchError(f"worker: cannot be started ({words})") from error
        return self._connection

    def _born(self, connection: int) -> Child | None:
        """Returns a worker from the nursery; None where there is none, and a process of its own is the way."""
        if self._device != "cpu" or self._module != _MODULE:
            return None
        environment = self._environment()
        try:
            nursery = nursery_for(environment)
        except NurseryError:
            return None
        try:
            arguments = (self._device, str(self._threads))
            return nursery.start(arguments, environment, connection=connection, output=self._output.fileno())
        except NurseryError:
            forget(nursery)
            return None

    def _started(self, connection: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", self._module, str(connection), self._device, str(self._threads)],
            pass_fds=(connection,),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,  # Ctrl-C belongs to the campaign, which ends its workers itself
        )

    def _limit_memory(self, pid: int) -> None:
        """Limits what the worker may allocate: beyond it an allocation raises there, in the candidate's own call."""
        if self._memory_bytes is not None and hasattr(resource, "prlimit"):
            with contextlib.suppress(ProcessLookupError):  # it ended already, which is told where its answer is read
                resource.prlimit(pid, resource.RLIMIT_DATA, (self._memory_bytes, self._memory_bytes))

    def _environment(self) -> dict[str, str]:
        """Returns the worker's environment: the checkout on the path, kernels interpreted where there is no GPU."""
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TRITON_INTERPRET": "0" if self._device == "cuda" else "1",
            "OMP_NUM_THREADS": str(self._threads),
            "MKL_NUM_THREADS": str(self._threads),
            **self._own_environment,
        }

    def _last_words(self) -> str:
        """Returns how the worker ended and the last line that it printed."""
        if self._process is None:
            return "the worker is gone"
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the worker closed its connection"
        end = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, end - 2000))
        printed = self._output.read().decode(errors="replace").strip().splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the worker ended with {how}" + (f": {printed[-1]}" if printed else "")
