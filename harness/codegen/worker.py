"""The process that compiles: it makes the inputs of a case, calls a candidate forward and backward, reads the kernels.

Nothing runs on them, so that outputs are whatever the memory held and nobody looks at them. A compiler that crashes
ends this process and not the survey. Started by ``harness.codegen.survey``, never by hand.
"""

import contextlib
import functools
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from harness.candidates import find_candidates
from harness.codegen.loops import loops_divided_by_turns
from harness.codegen.machine_code import MachineCode, read_machine_code
from harness.codegen.offline import Launch, compiling, launches_something
from harness.codegen.results import CompiledKernel
from harness.codegen.scans import torn_scans
from harness.wire import receive, send
from harness.worker import Call, prepare
from optimized.candidate import Candidate

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Serves requests until the owner closes the connection.

    Args:
        arguments: file descriptor of the connection, architecture, number of threads.
    """
    descriptor, arch, threads = arguments
    torch.set_num_threads(int(threads))
    connection = Connection(int(descriptor))
    with contextlib.suppress(EOFError, BrokenPipeError):
        send(connection, {"status": "ready"})
        while True:
            request, _ = receive(connection)
            send(connection, _answer(request, arch))


def _answer(request: Mapping[str, Any], arch: str) -> dict[str, Any]:
    try:
        return _examine(request, arch)
    except (Exception, SystemExit) as error:
        return {"status": "error", "sentence": _sentence(error), "traceback": traceback.format_exc()}


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _examine(request: Mapping[str, Any], arch: str) -> dict[str, Any]:
    candidate, function = _loaded(request["plugin"], request["candidate"])
    row, case, inputs = prepare(request["case"])
    call = Call(row, case, inputs, "cpu", with_gradients=candidate.differentiable)
    args, kwargs = call.arguments()
    if request["probe"]:
        sentence = _declined(candidate, args, kwargs, arch)
        if sentence is None and not launches_something(lambda: call.gradients(call.outputs(function)), arch):
            return {"status": "no_kernel", "sentence": "it launches no Triton kernel"}
        return {"status": "ok"}
    backward_from = 0
    memory_bytes = request.get("memory_bytes")
    with compiling(
        arch, first_setting=request.get("first_setting", False), memory_bytes=memory_bytes
    ) as launches:  # fmt: skip
        sentence = None if candidate.supports is None else candidate.supports(*args, **kwargs)
        if sentence is not None:
            return {"status": "unsupported", "sentence": str(sentence)}
        try:
            outputs = call.outputs(function)
            backward_from = len(launches.compiled)
            call.gradients(outputs)
        except Exception:
            if not launches.failed:
                raise
    forward, backward = launches.compiled[:backward_from], launches.compiled[backward_from:]
    return {
        "status": "error" if launches.failed else "ok",
        "sentence": "; ".join(dict.fromkeys(launches.failed)),
        "kernels": [asdict(kernel) for kernel in (*_joined(forward, "forward"), *_joined(backward, "backward"))],
    }


def _declined(candidate: Candidate, args: Sequence[Any], kwargs: Mapping[str, Any], arch: str) -> str | None:
    if candidate.supports is None:
        return None
    with compiling(arch):
        return candidate.supports(*args, **kwargs)


@functools.cache
def _loaded(plugin: str | None, name: str) -> tuple[Candidate, Callable[..., Any]]:
    candidate = _candidates(plugin)[name]
    return candidate, candidate.load()


@functools.cache
def _candidates(plugin: str | None) -> Mapping[str, Candidate]:
    return find_candidates(plugin).candidates


_codes: dict[str, MachineCode] = {}


def _joined(launches: Sequence[Launch], phase: str) -> Iterator[CompiledKernel]:
    """Yields each kernel once, with the sums of its launches; what autotuning only tries is launched 0 times."""
    for key in dict.fromkeys(launch.kernel.hash for launch in launches):
        own = [launch for launch in launches if launch.kernel.hash == key]
        real = [launch for launch in own if not launch.is_trial]
        yield replace(
            _read(own[0]),
            phase=phase,
            launches=len(real),
            programs=sum(launch.programs for launch in real),
            tensor_bytes=sum(launch.tensor_bytes for launch in real),
        )


def _read(launch: Launch) -> CompiledKernel:
    function, kernel = launch.function, launch.kernel
    if kernel.hash not in _codes:
        (_codes[kernel.hash],) = read_machine_code(kernel.asm["cubin"])
    names = function.arg_names
    constants = {names[place[0]]: value for place, value in kernel.src.constants.items() if len(place) == 1}
    module = function.fn.__module__.rpartition(".")[2].removeprefix("attest_plugin_")
    return CompiledKernel(
        kernel=f"{module}.{function.fn.__name__}",
        key=kernel.hash,
        signature={name: str(kind) for name, kind in kernel.src.signature.items() if kind != "constexpr"},
        constants={name: _plain(value) for name, value in constants.items()},
        num_warps=int(kernel.metadata.num_warps),
        num_stages=int(kernel.metadata.num_stages),
        shared_bytes=int(kernel.metadata.shared),
        matrix_product="tt.dot" in kernel.asm["ttir"],
        code=_codes[kernel.hash],
        divided_by_turns=loops_divided_by_turns(kernel.asm["ttir"]),
        torn_scans=torn_scans(kernel.asm["ttgir"]),
    )


def _plain(value: object) -> object:
    """Returns a constant as JSON can hold it."""
    try:
        json.dumps(value)
    except TypeError:
        return str(value)
    return value


if __name__ == "__main__":
    main(sys.argv[1:])
