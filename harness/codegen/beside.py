"""Kernels of several projects side by side: the same cases, compiled for the same GPU, one line per kernel.

Evidence about code, not about time. Bytes are those of the tensors that a launch is given, each once per launch: what a
kernel moves that reads its inputs and writes its outputs once. Kernels of torch itself (a sum of partial rows, a
conversion) are not seen. Instructions are counted as they stand in the code, so that the body of a loop counts once.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.codegen.machine_code import MachineCode
from harness.codegen.results import CompiledKernel, Examination
from harness.operations.base import Operation
from harness.operations.case import Case

__all__ = ["SENTENCE", "Line", "beside_case", "lines_of", "occupancy", "other_line", "places", "totals", "write_beside"]

SENTENCE = "This is evidence about code, not about time: no figure here says how long a kernel runs."

_REGISTERS, _REGISTER_UNIT = 65536, 256
_SHARED_BYTES, _RESERVED_BYTES = 228 * 1024, 1024
_WARPS, _PROGRAMS = 64, 32
_WARP_SIZE = 32

_ROWS: Mapping[str, Any] = {"batch": 2, "tokens": 1024}
_CASES: Mapping[str, Mapping[str, Any]] = {
    "gated_delta_rule": {"batch": 1, "tokens": 4096, "key_heads": 32, "group": 1, "key_dim": 128, "value_dim": 128,
                         "normalize_qk": True},
    "attention": {"batch": 2, "query_tokens": 1024, "key_tokens": 1024, "key_heads": 4, "group": 1, "head_dim": 128,
                  "value_dim": 128, "window_right": 0},
    "rms_norm": {**_ROWS, "channels": 4096, "zero_centered": False},
    "gated_rms_norm": {**_ROWS, "heads": 16, "channels": 128, "zero_centered": False},
    "l2_norm": {**_ROWS, "heads": 16, "width": 128},
    "rope": {**_ROWS, "heads": 16, "width": 128, "style": "half"},
    "short_conv": {**_ROWS, "channels": 1024, "taps": 4},
    "silu_mul": {**_ROWS, "channels": 4096},
    "mamba_decay": {**_ROWS, "heads": 32},
    "log_sigmoid_decay": {**_ROWS, "heads": 32},
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One kernel of one candidate, or of one setting of it that autotuning tries; None where it is not known.

    Attributes:
        op: the operation.
        candidate: whose kernel.
        arch: architecture.
        phase: ``forward`` or ``backward``.
        kernel: name.
        launches: how often the call launches it; 0 for a setting that autotuning tries and does not take.
        bytes: of its launches, per token and head.
        registers: of a thread.
        stack: bytes of a thread.
        spills: LDL and STL.
        shared_bytes: of a program.
        warps: of a program.
        occupancy: share of a multiprocessor's 64 warps that fit at once.
        hgmma_share: share of matrix instructions that are those of warp groups (sm_90) or tensor memory (sm_100).
        wide_share: share of loads and stores that are of 128 bits.
        instructions: of warps, per token and head, the body of a loop once.
    """

    op: str
    candidate: str
    arch: str
    phase: str
    kernel: str
    launches: int
    bytes: float | None
    registers: int
    stack: int
    spills: int
    shared_bytes: int
    warps: int
    occupancy: float
    hgmma_share: float | None
    wide_share: float | None
    instructions: float | None


def beside_case(row: Operation) -> Case | None:
    """Returns the case in bfloat16 that an operation is compared on; None if there is none."""
    chosen = _CASES.get(row.name)
    return None if chosen is None else row.case.from_data({"dtype": "bfloat16", **chosen})


def occupancy(*, registers: int, warps: int, shared_bytes: int) -> float:
    """Returns the share of a multiprocessor's warps that fit at once, on sm_90 and sm_100."""
    of_warp = math.ceil(registers * _WARP_SIZE / _REGISTER_UNIT) * _REGISTER_UNIT
    limits = (
        _REGISTERS // (of_warp * warps), _SHARED_BYTES // (shared_bytes + _RESERVED_BYTES), _WARPS // warps, _PROGRAMS
    )  # fmt: skip
    return min(limits) * warps / _WARPS


def lines_of(items: Iterable[Examination]) -> list[Line]:
    """Returns a line for every kernel of every examination."""
    return [_line(item, kernel) for item in items for kernel in item.kernels]


def other_line(record: Mapping[str, Any]) -> Line:
    """Returns the line of a kernel that ``python -m tests.optimized.compile_flash4`` printed."""
    code = MachineCode(**{field.name: record[field.name] for field in fields(MachineCode)})
    is_backward = "backward" in code.function.lower() or "bwd" in code.function.lower()
    return Line(
        op="attention", candidate=f"flash-attn-4 {record['version']}", arch=record["arch"],
        phase="backward" if is_backward else "forward",
        kernel=code.function, launches=1, bytes=None, instructions=None,
        **_needs(code, record["threads"] // _WARP_SIZE, record["dynamic_shared_bytes"]),
    )  # fmt: skip


def totals(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Returns kernels, bytes, spills and shared memory per candidate, architecture and phase, of what is launched."""
    groups: dict[tuple[str, str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.op, line.candidate, line.arch, line.phase), []).append(line)
    found = []
    for (op, candidate, arch, phase), own in groups.items():
        real = [line for line in own if line.launches]
        known = [line.bytes for line in real if line.bytes is not None]
        found.append({
            "op": op, "candidate": candidate, "arch": arch, "phase": phase,
            "kernels": sum(line.launches for line in real),
            "bytes": sum(known) if known else None,
            "with spills": f"{sum(bool(line.stack + line.spills) for line in own)} of {len(own)}",
            "most registers": max(line.registers for line in own),
            "most shared": max(line.shared_bytes for line in own),
        })  # fmt: skip
    return found


def write_beside(folder: Path, lines: Sequence[Line], *, command: str, versions: str, absent: Sequence[str]) -> None:
    """Writes ``beside.csv``, a line per kernel, and ``beside.md``, totals and kernels as tables.

    Args:
        folder: is made.
        lines: of all candidates.
        command: what made it.
        versions: of the compilers.
        absent: sentences about what is not in it, of whole candidates or of single kernels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "beside.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Line)])
        writer.writeheader()
        writer.writerows(asdict(line) for line in lines)
    kernels = [asdict(line) for line in lines if line.launches]
    text = [
        "# Kernels side by side", SENTENCE, f"Made by `{command}` with {versions}.", *absent,
        "## Passes", _markdown(totals(lines)), "## Kernels that are launched", _markdown(kernels),
    ]  # fmt: skip
    (folder / "beside.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _line(item: Examination, kernel: CompiledKernel) -> Line:
    count = places(item.case)
    work = kernel.code.instructions * kernel.num_warps * kernel.programs / count
    return Line(
        op=item.op, candidate=item.candidate, arch=item.arch, phase=kernel.phase, kernel=kernel.kernel,
        launches=kernel.launches, bytes=kernel.tensor_bytes / count, instructions=work,
        **_needs(kernel.code, kernel.num_warps, kernel.shared_bytes),
    )  # fmt: skip


def places(case: Mapping[str, Any]) -> int:
    """Returns tokens times heads, value or query heads where there are several kinds."""
    heads = case["heads"] if "heads" in case else case.get("key_heads", 1) * case.get("group", 1)
    return int(case["batch"] * case.get("tokens", case.get("query_tokens", 1)) * heads)


def _needs(code: MachineCode, warps: int, shared_bytes: int) -> dict[str, Any]:
    fast = code.warp_group_products + code.tensor_memory_products
    products = fast + code.warp_products
    return {
        "registers": code.registers, "stack": code.stack_bytes, "spills": code.local_loads + code.local_stores,
        "shared_bytes": shared_bytes, "warps": warps,
        "occupancy": occupancy(registers=code.registers, warps=warps, shared_bytes=shared_bytes),
        "hgmma_share": fast / products if products else None,
        "wide_share": code.wide_accesses / code.memory_accesses if code.memory_accesses else None,
    }  # fmt: skip


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0]) if rows else []
    table = [names, ["---"] * len(names), *([_cell(name, row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0%}" if name.endswith("share") or name == "occupancy" else f"{value:,.0f}"
    return str(value)
