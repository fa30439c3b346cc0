"""What was found out about compiled kernels, as records, JSON and CSV."""

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.codegen.machine_code import MachineCode

__all__ = ["PROJECTS", "CompiledKernel", "Examination", "write_results"]

PROJECTS = ("fla-core", "liger-kernel")
"""Other projects whose kernels are compared; names of their candidates begin with the first word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledKernel:
    """One kernel as one call compiled it.

    Attributes:
        kernel: module and name of the Triton function.
        key: Triton's hash of source, signature, constants and options.
        signature: type of every argument that is not a constant, by name.
        constants: compile-time arguments by name.
        num_warps: warps of a program.
        num_stages: depth of the load pipeline.
        shared_bytes: shared memory of a program.
        matrix_product: whether the source multiplies matrices (``tl.dot``), whatever the compiler made of it.
        code: figures of the machine code.
        divided_by_turns: loops that divide by how often they turn, which is undefined where they do not.
        torn_scans: running sums in a layout in which Triton 3.6 takes carries from a wrong lane.
        phase: ``forward`` or ``backward``.
        launches: how often the call launches it; 0 for a setting that autotuning only tries.
        programs: programs of these launches.
        tensor_bytes: bytes of the tensors that these launches are given, each once per launch.
    """

    kernel: str
    key: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    shared_bytes: int
    matrix_product: bool
    code: MachineCode
    divided_by_turns: int = 0
    torn_scans: int = 0
    phase: str = "forward"
    launches: int = 1
    programs: int = 0
    tensor_bytes: int = 0

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "CompiledKernel":
        """Returns the kernel that JSON data describes."""
        return cls(**{**data, "code": MachineCode(**data["code"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What became of one case of one candidate on one architecture.

    Attributes:
        op: the operation.
        candidate: name of the candidate.
        arch: architecture, for instance ``sm_90``.
        case: the case as JSON data.
        status: ``ok``; ``no_kernel``, nothing of Triton is launched; ``unsupported``, the candidate declines the case;
            ``error``, ``crash`` or ``timeout``.
        sentence: why it is not ``ok``.
        kernels: every kernel that the call and its backward pass launch, each once.
        seconds: time that it took.
    """

    op: str
    candidate: str
    arch: str
    case: Mapping[str, Any]
    status: str
    sentence: str = ""
    kernels: tuple[CompiledKernel, ...] = ()
    seconds: float = 0.0


def write_results(folder: Path, examinations: Iterable[Examination], environment: Mapping[str, Any]) -> None:
    """Writes ``codegen.json``, all of it, and ``codegen.csv``, one line per kernel and case."""
    folder.mkdir(parents=True, exist_ok=True)
    found = list(examinations)
    data = {"environment": environment, "examinations": [dataclasses.asdict(item) for item in found]}
    (folder / "codegen.json").write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
    rows = [_row(item, kernel) for item in found for kernel in item.kernels]
    with (folder / "codegen.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["op", "candidate", "arch", "kernel"])
        writer.writeheader()
        writer.writerows(rows)


def _row(item: Examination, kernel: CompiledKernel) -> dict[str, Any]:
    code = dataclasses.asdict(kernel.code)
    del code["function"], code["static_shared_bytes"]
    return {
        "op": item.op,
        "candidate": item.candidate,
        "arch": item.arch,
        "kernel": kernel.kernel,
        "phase": kernel.phase,
        "launches": kernel.launches,
        "programs": kernel.programs,
        "tensor_bytes": kernel.tensor_bytes,
        "num_warps": kernel.num_warps,
        "num_stages": kernel.num_stages,
        "shared_bytes": kernel.shared_bytes,
        "matrix_product": kernel.matrix_product,
        **code,
        "constants": json.dumps(kernel.constants, default=str),
        "key": kernel.key,
        "case": json.dumps(item.case, separators=(",", ":")),
    }
