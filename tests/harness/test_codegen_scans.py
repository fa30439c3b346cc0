"""Running sums that Triton lowers wrongly are found in its own code, and no others."""

import pytest

from harness.codegen.scans import torn_scans

# The first is of the kernel that was wrong on an H100: two of its four lanes of columns repeat the other two.
LAYOUTS = {
    "repeating": "#ttg.blocked<{sizePerThread = [1, 8], threadsPerWarp = [8, 4], warpsPerCTA = [1, 1]}>",
    "exact": "#ttg.blocked<{sizePerThread = [1, 1], threadsPerWarp = [2, 16], warpsPerCTA = [1, 1]}>",
    "long": "#ttg.blocked<{sizePerThread = [1, 8], threadsPerWarp = [16, 2], warpsPerCTA = [1, 1]}>",
    "line": "#ttg.blocked<{sizePerThread = [1], threadsPerWarp = [32], warpsPerCTA = [1]}>",
    "bits": "#ttg.linear<{register = [[0, 1], [8, 0]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], "
    "warp = [], block = []}>",
    "twins": "#ttg.linear<{register = [[0, 1], [8, 0]], lane = [[0, 2], [0, 0], [1, 0], [2, 0], [4, 0]], "
    "warp = [], block = []}>",
}


def code(layout: str, *, shape: str = "16x16", axis: int = 0) -> str:
    aliases = "".join(f"#{name} = {text}\n" for name, text in LAYOUTS.items())
    kind = f"tensor<{shape}xf32, {layout}>"
    return (
        f"{aliases}module {{\n"
        f'    %sum = "tt.scan"(%x) <{{axis = {axis} : i32, reverse = false}}> ({{\n'
        "    ^bb0(%a: f32 loc(#loc1), %b: f32 loc(#loc1)):\n"
        "      %c = arith.addf %a, %b : f32 loc(#loc2)\n"
        "      tt.scan.return %c : f32 loc(#loc3)\n"
        f"    }}) : ({kind}) -> {kind} loc(#loc4)\n"
    )


@pytest.mark.parametrize(
    ("layout", "shape", "axis"),
    [
        ("#repeating", "16x16", 0),
        ("#repeating", "64x16", 0),
        ("#twins", "16x8", 0),
        ("#ttg.slice<{dim = 1, parent = #exact}>", "16", 0),
        ("#ttg.slice<{dim = 1, parent = #twins}>", "16", 0),
    ],
)
def test_carries_beside_lanes_that_repeat_others_are_found(layout: str, shape: str, axis: int) -> None:
    assert torn_scans(code(layout, shape=shape, axis=axis)) == 1


@pytest.mark.parametrize(
    ("layout", "shape", "axis"),
    [
        ("#repeating", "8x16", 0),  # one stretch: nothing is carried
        ("#repeating", "16x32", 0),  # every lane has columns of its own
        ("#repeating", "16x16", 1),  # along the columns the lanes reach further than the sum
        ("#exact", "16x16", 0),
        ("#long", "16x16", 0),
        ("#line", "16", 0),
        ("#line", "64", 0),  # carried, and no lane repeats another
        ("#bits", "16x8", 0),
        ("#twins", "8x8", 0),
        ("#ttg.slice<{dim = 1, parent = #long}>", "16", 0),
    ],
)
def test_others_are_none(layout: str, shape: str, axis: int) -> None:
    assert torn_scans(code(layout, shape=shape, axis=axis)) == 0


def test_each_counts() -> None:
    assert torn_scans(code("#repeating") + code("#exact") + code("#repeating")) == 2


def test_code_without_one_has_none() -> None:
    assert torn_scans("module {}") == 0
