import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import harness.candidates
from harness.candidates import Found, find_candidates, load_plugin, select
from harness.errors import UsageError
from harness.ops import OPS
from optimized.candidate import Candidate, Recipe
from optimized.catalogue import CANDIDATES

PLUGIN = """
import torch
from optimized.candidate import Candidate, Recipe

SINGLE = Recipe(storage="float32", operand="float32", accumulator="float32")

def first(x, weight, *, eps, zero_centered=False):
    gain = weight + 1 if zero_centered else weight
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=eps) * gain

def second(x, weight, *, eps, zero_centered=False):
    return first(x, weight, eps=eps, zero_centered=zero_centered) * 1.01

CANDIDATES = (
    Candidate(name="my-right", op="rms_norm", load=lambda: first, recipe=SINGLE),
    Candidate(name="my-wrong", op="rms_norm", load=lambda: second, recipe=SINGLE),
)
OTHERS = CANDIDATES[1:]
ONE = CANDIDATES[0]
NUMBER = 3
MIXED = (ONE, 3)
"""
SINGLE = Recipe(storage="float32", operand="float32", accumulator="float32")


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "my_kernels.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return str(path)


def names(candidates: object) -> list[str]:
    assert isinstance(candidates, tuple | list)
    return [item.name for item in candidates]


def refusal(plugin: str) -> str:
    with pytest.raises(UsageError) as caught:
        find_candidates(plugin)
    return str(caught.value)


def test_a_checkout_offers_its_own_candidates() -> None:
    assert list(find_candidates().candidates.values())[: len(CANDIDATES)] == list(CANDIDATES)


def test_every_candidate_of_the_catalogue_is_of_a_known_operation() -> None:
    assert {item.op for item in CANDIDATES} <= set(OPS)


def test_a_plug_in_replaces_what_is_installed(plugin: str) -> None:
    assert list(find_candidates(plugin).candidates) == ["my-right", "my-wrong"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", ["my-right", "my-wrong"]),
        (":CANDIDATES", ["my-right", "my-wrong"]),
        (":OTHERS", ["my-wrong"]),
        (":ONE", ["my-right"]),
        (":my-wrong", ["my-wrong"]),
    ],
)
def test_a_name_behind_the_file_picks_from_it(plugin: str, wanted: str, found: list[str]) -> None:
    assert names(load_plugin(plugin + wanted)) == found


@pytest.mark.parametrize(
    ("wanted", "words"),
    [(":nobody", "neither a variable nor a candidate 'nobody'"), (":NUMBER", "got int"), (":MIXED", "got tuple")],
)
def test_a_name_that_stands_for_nothing_is_refused(plugin: str, wanted: str, words: str) -> None:
    assert words in refusal(plugin + wanted)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param("import nowhere_to_be_found", "does not import (ModuleNotFoundError", id="import-error"),
        pytest.param("def f(:", "does not import (SyntaxError", id="syntax-error"),
        pytest.param("raise RuntimeError('no GPU here')", "does not import (RuntimeError: no GPU here)", id="raises"),
        pytest.param("import sys; sys.exit(0)", "does not import (SystemExit: 0)", id="exits"),
        pytest.param("", "got no CANDIDATES", id="empty"),
        pytest.param("CANDIDATES = 3", "got int, expected a tuple of Candidate", id="no-tuple"),
        pytest.param("CANDIDATES = ('right',)", "got tuple, expected a tuple of Candidate", id="tuple-of-names"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_refused(tmp_path: Path, source: str, words: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source, encoding="utf-8")
    assert words in refusal(str(path))


def test_a_plug_in_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "expected the path of a Python file" in refusal(str(tmp_path / "nowhere.py"))


def test_a_folder_is_no_plug_in(tmp_path: Path) -> None:
    assert "expected the path of a Python file" in refusal(str(tmp_path))


def test_two_candidates_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.py"
    path.write_text(PLUGIN + "CANDIDATES = (ONE, ONE)\n", encoding="utf-8")
    assert refusal(str(path)).startswith("candidate 'my-right': got it from")


def test_an_entry_point_with_a_name_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="other", value="tests.harness.odd_candidates:TWICE", group=harness.candidates.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda _: CANDIDATES[:1])
    monkeypatch.setattr(harness.candidates, "entry_points", lambda **_: [point])
    with pytest.raises(UsageError, match=re.escape(f"{CANDIDATES[0].name!r}: got it from {point.value}")):
        find_candidates()


def test_an_entry_point_that_does_not_import_is_kept_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="broken", value="nowhere_to_be_found:CANDIDATES", group=harness.candidates.GROUP)
    monkeypatch.setattr(harness.candidates, "entry_points", lambda **_: [point])
    found = find_candidates()
    assert "ModuleNotFoundError" in found.broken["broken"]
    assert len(found.candidates) == len(CANDIDATES)


def candidate(name: str, op: str) -> Candidate:
    return Candidate(name=name, op=op, load=lambda: len, recipe=SINGLE)


FOUND = Found(candidates={"a": candidate("a", "rope"), "b": candidate("b", "rope"), "c": candidate("c", "silu_mul")})


@pytest.mark.parametrize(
    ("op", "wanted", "found"),
    [
        ("rope", None, ["a", "b"]),
        (None, None, ["a", "b", "c"]),
        ("rope", ["b"], ["b"]),
        (None, ["c", "a"], ["c", "a"]),
        (None, ["[ab]", "b"], ["a", "b"]),
        ("rope", ["*"], ["a", "b"]),
    ],
)
def test_candidates_are_chosen_by_operation_and_name(
    op: str | None, wanted: list[str] | None, found: list[str]
) -> None:  # fmt: skip
    assert names(select(FOUND, op=op, names=wanted)) == found


@pytest.mark.parametrize(
    ("op", "wanted", "words"),
    [
        ("rope", ["z"], "got 'z', expected one of a, b"),
        ("rope", ["z*"], "got 'z*', expected one of a, b"),
        ("rope", ["c"], "'c' computes silu_mul, expected one for rope"),
        ("attention", None, "no candidate for operation 'attention'"),
    ],
)
def test_a_choice_of_nothing_is_refused(op: str, wanted: list[str] | None, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        select(FOUND, op=op, names=wanted)


def test_a_misspelt_candidate_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'torch-rms-norm-fp32'"):
        select(find_candidates(), op="rms_norm", names=["torch-rmsnorm-fp32"])


def test_a_plug_in_in_a_package_may_import_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "some_kernels"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "names.py").write_text("OP = 'rms_norm'\n", encoding="utf-8")
    (package / "plugin.py").write_text(
        "from optimized.candidate import Candidate, Recipe\nfrom some_kernels.names import OP\n"
        "RECIPE = Recipe(storage='float32', operand='float32', accumulator='float32')\n"
        "CANDIDATES = (Candidate(name='mine', op=OP, load=lambda: None, recipe=RECIPE),)\n",
        encoding="utf-8",
    )
    assert [item.op for item in load_plugin(str(package / "plugin.py"))] == ["rms_norm"]
