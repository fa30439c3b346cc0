"""Reads Triton's own code for loops that divide by how often they turn.

Triton issues the loads of a loop's first turn before the loop, guarded by whether there is one, and computes their
addresses there in any case. A division by the number of turns is then one by 0 where there are none. It is undefined
in LLVM, which takes for granted that it does not happen, so that there are turns: the guard goes, and loads read beyond
the end of a tensor. A GPU notices only where nothing lies behind it.
"""

import re

__all__ = ["loops_divided_by_turns"]

_LOOP = re.compile(r"scf\.for %\S+ = %\S+ to (%\S+) step")
_DIVISION = re.compile(r"arith\.(?:div|rem)[su]i %\S+, (%\S+)")
_MADE_OF = re.compile(r"(%\S+) = arith\.(?:muli|extsi|extui|trunci) (%\S+?)(?:, (%\S+))? :")


def loops_divided_by_turns(ttir: str) -> int:
    """Returns how many loops divide, inside, by their upper bound or a factor of it.

    Args:
        ttir: a kernel as Triton writes it before it is made for a GPU.
    """
    factors: dict[str, set[str]] = {}
    loops: list[tuple[int, int, set[str]]] = []  # depth of the body, line, factors of the bound
    found: set[int] = set()
    depth = 0
    for number, line in enumerate(ttir.splitlines()):
        made = _MADE_OF.search(line)
        if made is not None:
            operands = {name for name in made.groups()[1:] if name is not None}
            factors[made[1]] = {made[1]}.union(*(factors.get(name, {name}) for name in operands))
        division = _DIVISION.search(line)
        if division is not None:
            divisors = factors.get(division[1], {division[1]})
            found |= {start for _, start, bounds in loops if bounds & divisors}
        depth += line.count("{") - line.count("}")
        loops = [loop for loop in loops if loop[0] <= depth]
        loop = _LOOP.search(line)
        if loop is not None:
            loops.append((depth, number, factors.get(loop[1], {loop[1]})))
    return len(found)
