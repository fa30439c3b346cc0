"""Workers in milliseconds: a process that has imported what every worker needs, and becomes one by forking.

Importing torch takes seconds, and a worker is started again after every crash, hang, and check in a fresh process. The
nursery imports and does nothing else: no case, no result and no random number of anybody is ever in its memory, so
that a worker that forks off is as fresh as one that was started anew. For CPUs alone, as CUDA does not survive a fork.

A process has one nursery for all its workers. It ends with its owner; how a worker ended is told through a pipe.
"""

import atexit
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Child", "Nursery", "NurseryError", "forget", "main", "nursery_for"]

_START_LIMIT_S = 120.0
_CODE_BYTES = 4
_LARGEST_REQUEST = 1 << 20


class NurseryError(Exception):
    """The nursery cannot be started, or is gone; its message says how it ended."""


class Child:
    """A worker that a nursery gave birth to; as much of ``subprocess.Popen`` as its owner needs.

    Args:
        pid: its process, and the group of all that it starts.
        ended: read end of the pipe that will hold its exit code.
    """

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self._ended = ended
        self._code: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code, minus the signal if one ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        if self._code is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            said = os.read(self._ended, _CODE_BYTES)
            os.close(self._ended)
            # Without a word the nursery itself is gone, and its children with their connections.
            self._code = int.from_bytes(said, "little", signed=True) if said else -signal.SIGKILL
        return self._code


class Nursery:
    """The owner's side.

    Args:
        environment: of the process that imports.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the nursery does
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.nursery", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), env=dict(environment), stdin=subprocess.DEVNULL, stdout=self._output,
                stderr=self._output, start_new_session=True,
            )  # fmt: skip
        self._control.settimeout(_START_LIMIT_S)
        try:
            self._answer()
        except NurseryError:
            self.close()
            raise

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], *, connection: int, output: int) -> Child:
        """Returns a new worker.

        Args:
            arguments: of ``harness.worker.main`` after the connection.
            environment: of the worker.
            connection: file descriptor of its end of the connection.
            output: file descriptor of what it prints.

        Raises:
            NurseryError: the nursery is gone.
        """
        ended, told = os.pipe()
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": os.getcwd()}  # noqa: PTH109
        try:
            with self._lock:
                socket.send_fds(self._control, [json.dumps(request).encode()], [connection, output, told])
                return Child(int(self._answer()["pid"]), ended)
        except OSError as error:
            os.close(ended)
            raise NurseryError(str(error)) from error
        finally:
            os.close(told)

    def close(self) -> None:
        """Ends the nursery; workers go on until their owners close their connections."""
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._output.close()

    def _answer(self) -> Any:  # noqa: ANN401 - JSON
        said = b""
        with contextlib.suppress(OSError):
            said = self._control.recv(_LARGEST_REQUEST)
        if not said:
            self._process.kill()
            code = self._process.wait()
            self._output.seek(0)
            words = self._output.read().decode(errors="replace").strip().splitlines()
            raise NurseryError(f"exit code {code}" + (f": {words[-1]}" if words else ""))
        return json.loads(said)


_nurseries: dict[tuple[Any, ...], Nursery] = {}


def nursery_for(environment: Mapping[str, str]) -> Nursery:
    """Returns this process' nursery for workers of an environment: what imports depend on is the same.

    Raises:
        NurseryError: it cannot be started.
    """
    names = ("PYTHONPATH", "TRITON_INTERPRET", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    key = (os.getpid(), sys.executable, *(environment.get(name) for name in names))
    if key not in _nurseries:
        _nurseries[key] = Nursery(environment)
    return _nurseries[key]


def forget(nursery: Nursery) -> None:
    """Drops a nursery that is gone; the next worker starts another."""
    for key in [key for key, item in _nurseries.items() if item is nursery]:
        _nurseries.pop(key).close()


@atexit.register
def _close_all() -> None:
    for key in [key for key in _nurseries if key[0] == os.getpid()]:
        _nurseries.pop(key).close()


def main(arguments: Sequence[str]) -> None:
    """Gives birth to workers until the owner is gone.

    Args:
        arguments: file descriptor of the control socket.
    """
    control = socket.socket(fileno=int(arguments[0]))
    import triton

    from harness import worker

    del triton  # only its import is wanted
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    told: dict[int, int] = {}
    control.send(json.dumps({"status": "ready"}).encode())
    while True:
        ready, *_ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_who_ended(told)
        if control.fileno() not in ready:
            continue
        said, descriptors, *_ = socket.recv_fds(control, _LARGEST_REQUEST, 3)
        if not said:
            return
        connection, output, ended = descriptors
        pid = os.fork()
        if pid == 0:
            for descriptor in (control.fileno(), woken, wake, ended, *told.values()):
                os.close(descriptor)
            _live(worker.main, json.loads(said), connection, output)
        with contextlib.suppress(OSError):  # the worker does so too: whoever comes first
            os.setpgid(pid, pid)
        os.close(connection)
        os.close(output)
        told[pid] = ended
        control.send(json.dumps({"pid": pid}).encode())


def _tell_who_ended(told: dict[int, int]) -> None:
    """Tells the owners of workers that have ended how they did."""
    for pid in list(told):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with contextlib.suppress(BrokenPipeError):
                os.write(told[pid], os.waitstatus_to_exitcode(status).to_bytes(_CODE_BYTES, "little", signed=True))
            os.close(told.pop(pid))


def _live(work: Any, request: Mapping[str, Any], connection: int, output: int) -> None:  # noqa: ANN401 - worker.main
    """Is a worker, from its birth to its end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)  # a group of its own, that of all it starts; the nursery's session has no terminal
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[:1] = [request["folder"]]  # as of any "python -m"
        os.chdir(request["folder"])
        # What a process seeds when it starts is not the same in the next one.
        random.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        work([str(connection), *request["arguments"]])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
