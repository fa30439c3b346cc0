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

from harness.bench.calls import PHASES, timed_call
from harness.bench.ceilings import measure_ceilings
from harness.bench.costs import Ceilings, cost, floor_us
from harness.bench.inputs import rotations
from harness.bench.pairs import timed_pair
from harness.bench.pinning import pinned
from harness.bench.stopwatch import on_own_stream
from harness.call import Call
from harness.candidates import find_candidates
from harness.cases import case_from_data
from harness.interpreter import quicken
from harness.operations.base import Inputs, Operation
from harness.operations.case import Case
from harness.ops import operation
from harness.poison import poisoned
from harness.relations.check import vary
from harness.relations.rewrites import REWRITES, Declined
from harness.timing import BASELINE
from harness.truth import GRAD, promote
from harness.wire import inputs_crc, receive, send
from optimized.candidate import Candidate

__all__ = ["Call", "Server", "main", "prepare"]

_MOST_SETS = 64
"""Sets of inputs of a timed call: a small one would need more to fill a GPU's cache than its graph has calls."""


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
        self._ceilings: Ceilings | None = None

    def answer(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the answer to one request; whatever the candidate raises is part of it."""
        _reset_torch(self._threads)
        try:
            if request["kind"] == "time":
                return self._time(request)
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

    def _time(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns times of a candidate and a baseline, and what the candidate computed while it was timed."""
        row, case, inputs = prepare(request["case"])
        phase = request["phase"]
        name, baseline = request["candidates"]
        with pinned(self._threads), on_own_stream(self._device), _launches() as launches:
            made = self._made(row, case, inputs, phase)
            ours = self._calls(made, name, phase, request.get("plugin"))
            ours[0]()
            if launches.count:
                return {"status": "ok", "seconds": [], "interpreted": True}, {}
            if baseline == BASELINE:
                made = self._made(row, case, _promoted(inputs), phase)
            theirs = self._calls(made, baseline, phase, request.get("plugin"))
            rounds, most = (int(request[key]) for key in ("repeats", "most"))
            pair = timed_pair(ours, theirs, self._device, rounds=rounds, most=most)
            if self._ceilings is None:
                self._ceilings = measure_ceilings(self._device)
        floor = floor_us(cost(case, inputs, phase), self._ceilings)
        header = {"status": "ok", "seconds": pair.seconds, "interpreted": False, "how": pair.how, "floor_us": floor}
        return header, pair.results

    def _made(self, row: Operation, case: Case, inputs: Inputs, phase: str) -> list[Call]:
        """Returns as many copies of the inputs as keep a cache empty; two candidates share them, places included."""
        count = rotations(inputs, self._device, most=_MOST_SETS)
        return [Call(row, case, inputs, self._device, with_gradients=phase != PHASES[0]) for _ in range(count)]

    def _calls(
        self, made: Sequence[Call], name: str, phase: str, plugin: str | None
    ) -> list[Callable[[], dict[str, Tensor | None]]]:  # fmt: skip
        function: Callable[..., Any] = made[0].row.reference
        if name != BASELINE:
            _, function = self._candidate(plugin, name)
        return [
            timed_call(each.row, function, each.leaves, each.options, each.cotangents, phase) for each in made
        ]  # fmt: skip


def _promoted(inputs: Inputs) -> Inputs:
    return Inputs(tensors=promote(inputs.tensors), options=inputs.options, cotangents=promote(inputs.cotangents))


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
