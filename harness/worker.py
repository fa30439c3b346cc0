"""The process that a candidate runs in: it makes the inputs of a case, calls the candidate, sends back what came out.

A crash, a hang or a poisoned CUDA context ends this process, never the campaign. The reference is computed elsewhere:
no freed reference result can be picked up here. Started by ``harness.execute``, never by hand.
"""

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.interpreter import quicken
from harness.layouts import lay_out
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.ops import operation
from harness.poison import poisoned
from harness.relations.check import vary
from harness.relations.rewrites import REWRITES, Declined
from harness.timing import BASELINE, time_pair
from harness.truth import GRAD, promote
from harness.wire import inputs_crc, memory_bytes, receive, send
from optimized.candidate import Candidate

__all__ = ["Call", "Server", "main", "prepare"]


class Call:
    """A candidate's call on laid-out inputs.

    Args:
        row: the operation.
        case: gives layout and dtype.
        inputs: stored inputs on the CPU.
        device: where the candidate runs.
        with_gradients: whether inputs ask for gradients.
    """

    def __init__(self, row: Operation, case: Case, inputs: Inputs, device: str, *, with_gradients: bool) -> None:
        self.row = row
        self.names = row.differentiable(inputs.tensors) if with_gradients else ()
        self.leaves = {
            name: lay_out(item.to(device), case.layout).requires_grad_(name in self.names)
            for name, item in inputs.tensors.items()
        }
        self.cotangents = {name: _lay_out_cotangent(item.to(device), case) for name, item in inputs.cotangents.items()}
        self.options = dict(inputs.options)

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Returns positional and keyword arguments."""
        return self.row.arrange(self.leaves, self.options)

    def outputs(self, function: Callable[..., Any]) -> dict[str, Tensor]:
        """Returns the outputs that the candidate provides, by name."""
        args, kwargs = self.arguments()
        return self.row.named(function(*args, **kwargs))

    def gradients(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """Returns the gradients of every differentiable input from the outputs' cotangents."""
        pulled = [name for name, item in outputs.items() if item.requires_grad]
        if not self.names or not pulled:
            return dict.fromkeys(self.names)
        grads = torch.autograd.grad(
            [outputs[name] for name in pulled],
            [self.leaves[name] for name in self.names],
            [self.cotangents[name] for name in pulled],
            allow_unused=True,
        )
        return dict(zip(self.names, grads, strict=True))

    def bits(self) -> dict[str, bytes]:
        """Returns the bits of all that a candidate may not change: what surrounds a view in memory belongs to it."""
        return {name: memory_bytes(item) for name, item in (*self.leaves.items(), *self.cotangents.items())}


def prepare(case_data: Mapping[str, Any], variation: str | None = None) -> tuple[Operation, Case, Inputs]:
    """Returns the operation, the case and its inputs, varied if a relation asks for it."""
    case = case_from_data(case_data)
    row = operation(case.op)
    inputs = row.inputs(case)
    return row, case, vary(case, inputs, variation) if variation and variation not in REWRITES else inputs


def main(arguments: Sequence[str]) -> None:
    """Serves requests until the owner closes the connection.

    Args:
        arguments: file descriptor of the connection, device, number of threads.
    """
    descriptor, device, threads = arguments
    torch.set_num_threads(int(threads))
    connection = Connection(int(descriptor))
    served = Server(device, int(threads))
    with contextlib.suppress(EOFError, BrokenPipeError):
        send(connection, {"status": "ready"})
        while True:
            request, _ = receive(connection)
            header, tensors = served.answer(request)
            send(connection, header, tensors)


class Server:
    """Answers requests: makes the inputs of a case, calls the candidate, collects what came out.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: threads of torch.
        candidates: by name, those of requests without a plug-in; None means those that are installed.
    """

    def __init__(self, device: str, threads: int, *, candidates: Mapping[str, Candidate] | None = None) -> None:
        self._device = device
        self._threads = threads
        self._candidates: dict[str | None, Mapping[str, Candidate]] = {} if candidates is None else {None: candidates}
        self._functions: dict[tuple[str | None, str], Callable[..., Any]] = {}

    def answer(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the answer to one request; whatever the candidate raises is part of it."""
        _reset_torch(self._threads)
        try:
            if request["kind"] == "time":
                return self._time(request), {}
            return self._run(request)
        except (Exception, SystemExit) as error:
            sentence = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            return {"status": "error", "sentence": sentence, "traceback": traceback.format_exc()}, {}

    def _candidate(self, plugin: str | None, name: str) -> tuple[Candidate, Callable[..., Any]]:
        if plugin not in self._candidates:
            self._candidates[plugin] = find_candidates(plugin).candidates
        candidate = self._candidates[plugin][name]
        key = (plugin, name)
        if key not in self._functions:
            self._functions[key] = candidate.load()
        return candidate, self._functions[key]

    def _run(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        row, case, inputs = prepare(request["case"], request.get("variation"))
        candidate, function = self._candidate(request.get("plugin"), request["candidate"])
        variation = request.get("variation")
        call = Call(row, case, inputs, self._device, with_gradients=candidate.differentiable)
        if variation is not None and variation in REWRITES:
            return _rewritten(variation, call, case, candidate, function)
        if candidate.supports is not None:
            args, kwargs = call.arguments()
            sentence = candidate.supports(*args, **kwargs)
            if sentence is not None:
                return {"status": "unsupported", "sentence": str(sentence)}, {}
        before = call.bits()
        with poisoned() as canaries, _launches() as launches:
            started = time.perf_counter()
            outputs = call.outputs(function)
            _synchronize(self._device)
            forward = time.perf_counter()
            gradients = call.gradients(outputs)
            _synchronize(self._device)
            ended = time.perf_counter()
        after = call.bits()
        header = {
            "status": "ok",
            "inputs_crc": inputs_crc(inputs),
            "forward_s": forward - started,
            "candidate_s": ended - started,
            "changed": [name for name, bits in before.items() if after[name] != bits],
            "killed_canaries": canaries.killed(),
            "missing": [name for name, grad in gradients.items() if grad is None],
            "interpreted": launches.count > 0,
        }
        tensors = {name: item.detach() for name, item in outputs.items()}
        tensors |= {GRAD + name: grad for name, grad in gradients.items() if grad is not None}
        return header, tensors

    def _time(self, request: Mapping[str, Any]) -> dict[str, Any]:
        row, case, inputs = prepare(request["case"])
        arms = []
        with_gradients = request["phase"] != "forward"
        for name in request["candidates"]:
            if name == BASELINE:
                wide = Inputs(
                    tensors=promote(inputs.tensors), options=inputs.options, cotangents=promote(inputs.cotangents)
                )
                call = Call(row, case, wide, self._device, with_gradients=with_gradients)
                function: Callable[..., Any] = row.reference
            else:
                call = Call(row, case, inputs, self._device, with_gradients=with_gradients)
                _, function = self._candidate(request.get("plugin"), name)
            arms.append(_timed(call, function, request["phase"]))
        with _launches() as launches:
            arms[0]()
            if launches.count:
                return {"status": "ok", "seconds": [], "interpreted": True}
            seconds = time_pair(arms, repeats=int(request["repeats"]), synchronize=lambda: _synchronize(self._device))
        return {"status": "ok", "seconds": seconds, "interpreted": False}


def _rewritten(
    name: str, call: Call, case: Case, candidate: Candidate, function: Callable[..., Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:  # fmt: skip
    """Returns the outputs and gradients of a case by the other way of a relation."""

    def run(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
        args, kwargs = call.row.arrange(dict(tensors), options)
        sentence = None if candidate.supports is None else candidate.supports(*args, **kwargs)
        if sentence is not None:
            raise Declined(sentence)
        return call.row.named(function(*args, **kwargs))

    summed = REWRITES[name].summed(case)
    try:
        with poisoned(), torch.set_grad_enabled(candidate.differentiable):
            outputs = REWRITES[name].outputs(run, call.leaves, call.options, case)
            gradients = {} if "" in summed else call.gradients(outputs)
    except Declined as declined:
        return {"status": "unsupported", "sentence": str(declined)}, {}
    compared = {
        GRAD + key: grad for key, grad in gradients.items()
        if grad is not None and not key.endswith(summed)
    }  # fmt: skip
    return {"status": "ok"}, {**{key: item.detach() for key, item in outputs.items()}, **compared}


def _timed(call: Call, function: Callable[..., Any], phase: str) -> Callable[[], object]:
    """Returns what is timed: forward, or forward and backward; nothing is built inside."""
    if phase == "forward":
        return lambda: call.outputs(function)
    return lambda: call.gradients(call.outputs(function))


def _lay_out_cotangent(value: Tensor, case: Case) -> Tensor:
    if case.cotangent == "expanded" and value.dim() > 1 and value.shape[1] and bool((value == value[:, :1]).all()):
        return value[:, :1].clone().expand(*value.shape)
    return lay_out(value, case.layout)


def _reset_torch(threads: int) -> None:
    """Sets torch's global state to its defaults: what one candidate leaves behind must not meet the next one."""
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled():  # asked first: torch imports its compiler to set it, for seconds
        torch.use_deterministic_algorithms(False)  # noqa: FBT003 - torch's own signature
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class _Launches:
    """How often a kernel was run by Triton's interpreter."""

    def __init__(self) -> None:
        self.count = 0


@contextlib.contextmanager
def _launches() -> Iterator[_Launches]:
    """Counts the interpreter's launches: a kernel's time under the interpreter says nothing about the kernel."""
    launches = _Launches()
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None:
        yield launches
        return
    quicken()
    executor = interpreter.GridExecutor
    original = executor.__call__

    def counted(self: object, *args: object, **kwargs: object) -> object:
        launches.count += 1
        return original(self, *args, **kwargs)

    executor.__call__ = counted
    try:
        yield launches
    finally:
        executor.__call__ = original


if __name__ == "__main__":
    main(sys.argv[1:])
