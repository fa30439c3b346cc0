"""A worker that is this process: for candidates that exist as an object only, and for debuggers."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from harness.execute import Answer, Worker
from harness.worker import Server
from optimized.candidate import Candidate

__all__ = ["Here"]


class Here(Worker):
    """Answers as a worker does, without a process of its own: a crash or a hang is this process' own.

    Args:
        candidate: the only one that it runs.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, candidate: Candidate, device: str) -> None:
        super().__init__(device=device)
        self._server = Server(device, torch.get_num_threads(), candidates={candidate.name: candidate})

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Returns the answer to a request; what the candidate leaves behind in torch's state is undone."""
        started = time.perf_counter()
        with _kept_state():
            header, tensors = self._server.answer(request)
        return Answer(str(header["status"]), header, tensors, time.perf_counter() - started)


@contextlib.contextmanager
def _kept_state() -> Iterator[None]:
    """Gives back torch's global state as it was: it belongs to the caller's test suite."""
    dtype, threads, device = torch.get_default_dtype(), torch.get_num_threads(), torch.get_default_device()
    grad, deterministic = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.set_default_device(None if device == torch.device("cpu") else device)
        torch.set_grad_enabled(grad)
        if torch.are_deterministic_algorithms_enabled() is not deterministic:
            torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(precision)
