"""Reads Triton's code for running sums that Triton 3.6 lowers wrongly: whose carries come from another lane.

A running sum along an axis that is longer than what the lanes of a warp hold at once goes on in further registers, and
the last lane of one stretch hands its sum to the next. Where lanes hold the same elements as others, because a layout
has more of them along another axis than the tensor has elements, Triton 3.6 takes the sum from a lane in the middle: on
an H100, 16 by 16 sums down the rows in eight lanes of rows and four of columns, two of which repeat the others, lost
rows 4 to 7 of what rows 8 and on should have. In the code of Triton 3.9 the lane is the right one, but torch 2.11
brings 3.6. No kernel asks for such a layout; the compiler moves a sum into it to spare a conversion, so that the next
kernel that is fused with a sum may have it.
"""

import re
from dataclasses import dataclass

__all__ = ["torn_scans"]

_BLOCKED = re.compile(r"#ttg\.blocked<\{sizePerThread = (\[[^]]*]), threadsPerWarp = (\[[^]]*])")
_LINEAR = re.compile(r"#ttg\.linear<\{register = (\[.*?]), lane = (\[.*?]), warp = (\[.*?]), block =")
_ALIAS = re.compile(r"^(#\w+) = (#ttg\..*)$", re.MULTILINE)
_SLICE = re.compile(r"#ttg\.slice<\{dim = (\d+), parent = (.*)\}>$")
_SCAN = re.compile(r'"tt\.scan"\(.*?axis = (\d+) : i32.*?\n\s*\}\) : \(tensor<([\dx]+)x\w+, (.+?)>[,)]', re.DOTALL)
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class _Lanes:
    """How the lanes of a warp lie over a tensor.

    Attributes:
        held: elements along every axis that a warp holds before it goes on in further registers.
        has_twins: whether lanes hold the same elements whatever the tensor, because an axis is gone.
        lanes: lanes along every axis; None where repeated ones are in ``has_twins`` already.
    """

    held: tuple[int, ...]
    has_twins: bool
    lanes: tuple[int, ...] | None


def torn_scans(ttgir: str) -> int:
    """Returns how many running sums go on in further registers while lanes repeat others along another axis.

    Args:
        ttgir: a kernel as Triton writes it with layouts.
    """
    aliases = {name: text.strip() for name, text in _ALIAS.findall(ttgir)}
    found = 0
    for axis, shape, layout in _SCAN.findall(ttgir):
        sizes = tuple(int(size) for size in shape.split("x"))
        lanes = _lanes(layout, aliases)
        found += lanes is not None and _is_torn(int(axis), sizes, lanes)
    return found


def _is_torn(axis: int, sizes: tuple[int, ...], found: _Lanes) -> bool:
    if sizes[axis] <= found.held[axis]:
        return False
    if found.lanes is None:
        return found.has_twins
    per_thread = [held // lanes for held, lanes in zip(found.held, found.lanes, strict=True)]
    others = [other for other in range(len(sizes)) if other != axis]
    return found.has_twins or any(found.lanes[other] > max(1, sizes[other] // per_thread[other]) for other in others)


def _lanes(layout: str, aliases: dict[str, str]) -> _Lanes | None:
    """Returns how lanes lie, or None for layouts that running sums do not have."""
    text = aliases.get(layout, layout)
    piece = _SLICE.match(text)
    if piece is not None:
        return _without(_lanes(piece[2], aliases), int(piece[1]))
    blocked = _BLOCKED.match(text)
    if blocked is not None:
        size, lanes = (tuple(map(int, _NUMBERS.findall(part))) for part in blocked.groups())
        return _Lanes(tuple(a * b for a, b in zip(size, lanes, strict=True)), has_twins=False, lanes=lanes)
    linear = _LINEAR.match(text)
    return None if linear is None else _of_bases(*map(_bases, linear.groups()))


def _without(parent: _Lanes | None, axis: int) -> _Lanes | None:
    """Returns how lanes lie without an axis: those that differed along it alone hold the same."""
    if parent is None:
        return None
    lanes = parent.lanes
    return _Lanes(
        (*parent.held[:axis], *parent.held[axis + 1 :]),
        has_twins=parent.has_twins or lanes is None or lanes[axis] > 1,
        lanes=None if lanes is None else (*lanes[:axis], *lanes[axis + 1 :]),
    )


def _bases(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, _NUMBERS.findall(part))) for part in re.findall(r"\[([\d, ]+)]", text)]


def _of_bases(register: list[tuple[int, ...]], lane: list[tuple[int, ...]], warp: list[tuple[int, ...]]) -> _Lanes:
    """Returns how lanes lie in a layout that is told bit by bit; a bit of the lane that moves nothing makes twins.

    What a register or a warp adds beyond the lanes is further registers, conservatively.
    """
    axes = range(len((register or lane or warp)[0]))
    held = tuple(1 + sum(basis[axis] for basis in lane) for axis in axes)
    return _Lanes(held, has_twins=any(not any(basis) for basis in lane), lanes=None)
