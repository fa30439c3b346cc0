"""What a compiled kernel may not be: the limits that a survey ends with.

A spill costs global memory on every use, a program beyond the shared memory does not start at all, and a matrix product
without the warp-group instruction runs at a fraction of Hopper's rate. A program of a single warp is excepted from the
last: it is cut into tiles of 16 rows on purpose, of which the instruction of 64 rows would compute four times as many.
These limits are Hopper's. A program that does not fit or compile, that divides by 0 ahead of a loop, or whose
running sums take their carries from the wrong lane, is a violation on every architecture.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.codec import to_json
from harness.codegen.offline import GATED_ARCH
from harness.codegen.results import CompiledKernel, Examination
from harness.ops import operation

__all__ = ["SHARED_BYTES_OF_HOPPER", "Violation", "unusual", "violations"]

SHARED_BYTES_OF_HOPPER = 227 * 1024
"""Shared memory that one program can have on sm_90."""

_WIDTHS = ("head_dim", "key_dim", "value_dim", "nope_dim")
_GATED_WIDTHS = (64, 128)
_FAILURES = ("error", "crash", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A limit that a kernel breaks.

    Attributes:
        sentence: who breaks which limit, and by how much.
        candidate: name of the candidate.
        arch: architecture.
        case: the first case that shows it, as JSON data without what is usual.
    """

    sentence: str
    candidate: str
    arch: str
    case: Mapping[str, Any]


def violations(examinations: Iterable[Examination]) -> list[Violation]:
    """Returns what breaks a limit, each limit once per candidate and compiled kernel."""
    found: dict[tuple[str, str, str, str], Violation] = {}
    for item in examinations:
        for key, kind, sentence in _of_examination(item):
            violation = Violation(
                sentence=f"{item.candidate} on {item.arch}, {sentence}",
                candidate=item.candidate,
                arch=item.arch,
                case=unusual(item.case),
            )
            found.setdefault((item.candidate, item.arch, key, kind), violation)
    return list(found.values())


def unusual(case: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a case does not take by default, and its operation and dtype: enough to make it again."""
    fields = dataclasses.fields(operation(str(case["op"])).case)
    usual = {field.name: to_json(field.default) for field in fields if field.name != "dtype"}
    return {"op": case["op"]} | {
        field.name: case[field.name]
        for field in fields
        if field.name in case and (field.name not in usual or to_json(case[field.name]) != usual[field.name])
    }


def _of_examination(item: Examination) -> Iterator[tuple[str, str, str]]:
    """Yields key of the kernel, kind of the violation, and sentence."""
    if item.status in _FAILURES:
        yield "", item.sentence, item.sentence
    for kernel in item.kernels:
        for kind, sentence in _of_kernel(kernel, item.case):
            if item.arch != GATED_ARCH and kind not in {"shared", "turns", "scans"}:
                continue  # code for other architectures is not tuned, but it has to start, and to be defined
            yield kernel.key, kind, f"{kernel.kernel} {sentence}"


def _of_kernel(kernel: CompiledKernel, case: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    code = kernel.code
    if code.spills:
        local = f"{code.stack_bytes} bytes of stack, {code.local_loads} LDL, {code.local_stores} STL"
        yield "spill", f"spills: got {local}, expected 0"
    if kernel.shared_bytes > SHARED_BYTES_OF_HOPPER:
        yield "shared", f"does not fit: got {kernel.shared_bytes} bytes shared, expected <= {SHARED_BYTES_OF_HOPPER}"
    if kernel.divided_by_turns:
        got = f"{kernel.divided_by_turns} loops that do, expected 0"
        yield "turns", f"divides by a loop's number of turns inside it: got {got}: undefined where it has none"
    if kernel.torn_scans:
        got = f"{kernel.torn_scans} running sums that do, expected 0"
        yield "scans", f"goes on in further registers beside lanes that repeat others: got {got}: wrong in Triton 3.6"
    is_cut_for_groups = kernel.matrix_product and kernel.num_warps > 1
    if is_cut_for_groups and not code.warp_group_products and _asks_for_warp_groups(case):
        got = f"{code.warp_products} HMMA and 0 HGMMA with {kernel.num_warps} warps"
        yield "product", f"has slow products: got {got}, expected HGMMA, which takes 4 warps at least"


def _asks_for_warp_groups(case: Mapping[str, Any]) -> bool:
    widths = [case[name] for name in _WIDTHS if case.get(name) is not None]
    return case["dtype"] in {"bfloat16", "float16"} and bool(widths) and set(widths) <= set(_GATED_WIDTHS)
