"""Loops that divide by how often they turn are found in Triton's own code, and no others."""

import pytest

from harness.codegen.loops import loops_divided_by_turns

HEAD = """  tt.func public @kernel(%n: i32 {tt.divisibility = 16 : i32}, %m: i32) {
    %heads = arith.constant 4 : i32
    %zero = arith.constant 0 : i32
    %tiles = arith.divsi %n, %m : i32
"""


def loop(bound: str, *body: str) -> str:
    lines = [
        f"    %sum = scf.for %i = %zero to {bound} step %one iter_args(%s = %zero) -> (i32) : i32 {{",
        *body,
        "    }",
    ]
    return "\n".join(lines) + "\n"


def count(*parts: str) -> int:
    return loops_divided_by_turns("".join((HEAD, *parts, "  }\n")))


@pytest.mark.parametrize("operation", ["divsi", "remsi", "divui", "remui"])
def test_a_division_by_the_bound_is_found(operation: str) -> None:
    assert count(loop("%tiles", f"      %h = arith.{operation} %i, %tiles : i32")) == 1


def test_so_is_one_by_a_factor_of_the_bound() -> None:
    product = "    %turns = arith.muli %tiles, %heads : i32\n"
    assert count(product, loop("%turns", "      %h = arith.divsi %i, %tiles : i32")) == 1


def test_each_loop_counts_once() -> None:
    body = ("      %h = arith.divsi %i, %tiles : i32", "      %t = arith.remsi %i, %tiles : i32")
    assert count(loop("%tiles", *body), loop("%tiles", *body)) == 2


def test_a_bounded_divisor_is_none() -> None:
    some = "    %some = arith.maxsi %tiles, %one : i32\n"
    assert count(some, loop("%tiles", "      %h = arith.divsi %i, %some : i32")) == 0


def test_neither_is_one_outside_of_the_loop() -> None:
    after = "    %h = arith.divsi %n, %tiles : i32\n"
    assert count(after, loop("%tiles", "      %h2 = arith.divsi %i, %m : i32"), after) == 0


def test_a_loop_inside_ends_where_it_ends() -> None:
    inner = loop("%m", "        %x = arith.addi %i, %i : i32").rstrip("\n")
    assert count(loop("%tiles", inner, "      %h = arith.divsi %i, %m : i32")) == 0
    assert count(loop("%tiles", inner, "      %h = arith.divsi %i, %tiles : i32")) == 1
