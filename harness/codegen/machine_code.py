"""Reads what a compiled kernel needs and is made of from its machine code, by the disassembler that comes with Triton.

Evidence about code, not about time: no count here says how long a kernel runs.
"""

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import TestbenchError

__all__ = ["MachineCode", "nvidia_tool", "read_machine_code"]

_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
_WARP_GROUP_PRODUCTS = ("HGMMA", "QGMMA", "IGMMA", "BGMMA")
_WARP_PRODUCTS = ("HMMA", "QMMA", "IMMA", "DMMA", "BMMA")
_TENSOR_MEMORY_PRODUCTS = ("UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA", "UTCBMMA", "UTCMXQMMA")
_MEMORY_ACCESSES = ("LDG", "STG", "LDS", "STS", "LDGSTS")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCode:
    """Figures of one kernel's machine code.

    Attributes:
        function: the kernel's name in the binary.
        registers: registers of a thread.
        stack_bytes: stack of a thread; more than 0 means that something did not fit into registers, or is indexed.
        static_shared_bytes: shared memory that the binary itself declares; what a launch adds is not in it.
        instructions: all of them, the padding at the end left out.
        local_loads: LDL, reads of spilled registers.
        local_stores: STL, writes of spilled registers.
        warp_group_products: HGMMA and its kin: the matrix instruction of four warps (sm_90).
        warp_products: HMMA and its kin: the matrix instruction of one warp.
        tensor_memory_products: UTCHMMA and its kin: the matrix instruction tcgen05 (sm_100).
        wide_accesses: loads and stores of 128 bits a thread, in global or shared memory.
        memory_accesses: loads and stores of any width, in global or shared memory.
        bulk_copies: copies of whole tiles by the tensor memory accelerator.
    """

    function: str
    registers: int
    stack_bytes: int
    static_shared_bytes: int
    instructions: int
    local_loads: int
    local_stores: int
    warp_group_products: int
    warp_products: int
    tensor_memory_products: int
    wide_accesses: int
    memory_accesses: int
    bulk_copies: int

    @property
    def spills(self) -> bool:
        """Whether anything lies in local memory, which is global memory in truth."""
        return self.stack_bytes + self.local_loads + self.local_stores > 0

    @property
    def has_matrix_products(self) -> bool:
        """Whether any matrix instruction is in it."""
        return self.warp_group_products + self.warp_products + self.tensor_memory_products > 0


def read_machine_code(cubin: bytes | Path) -> tuple[MachineCode, ...]:
    """Returns the figures of every kernel in a CUDA binary.

    Args:
        cubin: the binary or the path of its file.

    Raises:
        TestbenchError: the disassembler is not there, or does not read the binary.
    """
    if isinstance(cubin, Path):
        return _read(cubin)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return _read(path)


@functools.cache
def nvidia_tool(name: str) -> str:
    """Returns the path of one of NVIDIA's tools: the one that Triton brings, else the one on the path.

    Raises:
        TestbenchError: it is in neither place.
    """
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        path = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
        if path.is_file():
            return str(path)
    found = shutil.which(name)
    if found is None:
        raise TestbenchError(f"{name}: got none, expected the one of Triton's wheel for Linux or one on the path")
    return found


def _read(path: Path) -> tuple[MachineCode, ...]:
    finished = subprocess.run(
        [nvidia_tool("cuobjdump"), "-res-usage", "-sass", str(path)], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise TestbenchError(f"cuobjdump {path}: {finished.stderr.strip() or finished.returncode}")
    resources = {
        name: tuple(int(number) for number in found.groups())
        for name, line in re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", finished.stdout)
        if (found := _RESOURCES.search(line))
    }
    listings = re.split(r"^\s*Function : (\S+)$", finished.stdout, flags=re.MULTILINE)
    code = dict(zip(listings[1::2], listings[2::2], strict=True))
    if not code or not code.keys() <= resources.keys():
        raise TestbenchError(f"cuobjdump: got code of {sorted(code)} and usage of {sorted(resources)} in {path}")
    return tuple(_figures(name, text, resources[name]) for name, text in code.items())


def _figures(name: str, listing: str, resources: Sequence[int]) -> MachineCode:
    codes = [found[1] for line in listing.splitlines() if (found := _INSTRUCTION.match(line))]
    while codes and codes[-1] in {"NOP", "BRA"}:  # a branch to itself and padding close every kernel
        codes.pop()
    names = [code.partition(".")[0] for code in codes]

    def count(*wanted: str) -> int:
        return sum(each in wanted for each in names)

    registers, stack, shared = resources
    return MachineCode(
        function=name,
        registers=registers,
        stack_bytes=stack,
        static_shared_bytes=shared,
        instructions=len(codes),
        local_loads=count("LDL"),
        local_stores=count("STL"),
        warp_group_products=count(*_WARP_GROUP_PRODUCTS),
        warp_products=count(*_WARP_PRODUCTS),
        tensor_memory_products=count(*_TENSOR_MEMORY_PRODUCTS),
        wide_accesses=sum(
            each in _MEMORY_ACCESSES and "128" in code.split(".") for each, code in zip(names, codes, strict=True)
        ),
        memory_accesses=count(*_MEMORY_ACCESSES),
        bulk_copies=count("UTMALDG", "UTMASTG", "UBLKCP"),
    )
