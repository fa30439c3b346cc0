"""Every sentence with which a kernel declines a call is the sentence of some test, so that none is said untested."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
"""The checkout."""

DECLINING = re.compile(r"_?(supports|refuse|reason)")
"""Names of the functions that say such sentences."""

FEWEST = 12
"""Sentences that there are at least: a search that finds fewer no longer finds them."""


def _strings(tree: ast.AST) -> Iterator[ast.Constant | ast.JoinedStr]:
    """Yields the strings of a tree, formatted ones as a whole."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            yield node
        else:
            yield from _strings(node)


def _text(node: ast.Constant | ast.JoinedStr, *, hole: str) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else hole for part in parts)


def _sentences(source: str) -> set[str]:
    """Returns what the declining functions of a source can say, a NUL for every value that is filled in."""
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and DECLINING.match(node.name) and node.returns is not None
    ]
    bodies = [statement for function in functions for statement in function.body]
    return {
        text
        for statement in bodies
        for text in (_text(node, hole="\0") for node in _strings(statement))
        if "got" in text and "expected" in text
    }


def _pattern(sentence: str) -> re.Pattern[str]:
    return re.compile(".+".join(map(re.escape, sentence.split("\0"))), re.DOTALL)


def _said_in_tests() -> list[str]:
    """Returns every string of the tests of the optimized room."""
    files = sorted((ROOT / "tests" / "optimized").rglob("*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return [_text(node, hole="something") for tree in trees for node in _strings(tree)]


def _untested(sentences: set[str], said: list[str]) -> list[str]:
    return sorted(
        sentence.replace("\0", "{}")
        for sentence in sentences
        if not any(_pattern(sentence).fullmatch(text) for text in said)
    )


@pytest.fixture(scope="module")
def sentences() -> set[str]:
    files = sorted((ROOT / "optimized").rglob("*.py"))
    return set().union(*(_sentences(file.read_text(encoding="utf-8")) for file in files))


def test_there_are_sentences_to_look_for(sentences: set[str]) -> None:
    assert len(sentences) >= FEWEST


def test_every_sentence_of_a_refusal_is_tested(sentences: set[str]) -> None:
    assert _untested(sentences, _said_in_tests()) == []


def test_an_untested_sentence_would_be_found() -> None:
    source = 'def supports(x) -> str | None:\n    return f"x: got {x} moons, expected one"\n'
    assert _untested(_sentences(source), ["x: got 2 moons, expected two"]) == ["x: got {} moons, expected one"]
    assert _untested(_sentences(source), ["x: got 2 moons, expected one"]) == []
