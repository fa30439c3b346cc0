"""``attest fuzz`` with a search and a corpus: which cases are judged, and what is left behind."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

import pytest

from harness.campaign import Item
from harness.cli.main import main
from harness.hardest import read_corpus
from harness.operations.case import Case
from harness.records import Record
from harness.store import read_records
from harness.strategies import DTYPES
from tests.harness.searching import corner, record
from tests.harness.test_candidates import PLUGIN


class Pool:
    """Lanes that judge at once, by the planted fault."""

    def __init__(self, *_: object) -> None:
        self.met: list[Case] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def verify(self, items: Iterable[Item]) -> Iterator[Record]:
        for item in items:
            self.met.append(item.case)
            yield from (record(item.case, min(corner(item.case), 1.0), candidate=name) for name in item.candidates)


class Clock:
    """A deadline that is over after ten questions a minute."""

    def __init__(self, minutes: float | None) -> None:
        self._left = math.inf if minutes is None else 10 * minutes

    def is_over(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.fixture
def fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Path]]:
    """Returns a function that fuzzes without a worker and returns the exit code and the folder."""
    monkeypatch.setattr("harness.cli.options.lanes", Pool)
    monkeypatch.setattr("harness.cli.fuzz.Deadline", Clock)

    def run(*options: str) -> tuple[int, Path]:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        fixed = ("--candidate", "torch-short-conv-*", "--jobs", "1", "--out", str(folder))
        return main(["fuzz", "--op", "short_conv", *fixed, *options]), folder

    return run


def test_a_search_goes_on_from_the_hardest_cases_of_another(fuzz: Callable[..., tuple[int, Path]]) -> None:
    _, first = fuzz("--search", "--cases", "30")
    known = read_corpus(first / "corpus.jsonl")
    share = max(sum(entry.case.dtype == dtype for entry in known) for dtype in DTYPES)
    _, second = fuzz("--corpus", str(first / "corpus.jsonl"), "--cases", str(3 * share))
    assert {entry.case.case_id for entry in known} <= {item.case_id for item in read_records(second)}


def test_what_was_harder_is_added_to_the_corpus(fuzz: Callable[..., tuple[int, Path]]) -> None:
    _, first = fuzz("--search", "--cases", "6")
    before = max(entry.ratio for entry in read_corpus(first / "corpus.jsonl"))
    _, second = fuzz("--corpus", str(first / "corpus.jsonl"), "--cases", "90")
    after = read_corpus(first / "corpus.jsonl")
    assert max(entry.ratio for entry in after) > before
    assert after == read_corpus(second / "corpus.jsonl")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cases", "6"), "cases: 6 drawn, 0 searched"),
        (("--cases", "6", "--search"), "cases: 0 drawn, 6 searched"),
        (("--minutes", "2"), "cases: 10 drawn, 11 searched"),
        (("--minutes", "2", "--search"), "cases: 0 drawn, 21 searched"),
        (("--minutes", "9", "--cases", "6"), "cases: 6 drawn, 0 searched"),
    ],
)
def test_the_summary_says_how_many_cases_were_drawn_and_searched(
    fuzz: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert fuzz(*options)[0] == 0
    assert said in capsys.readouterr().out


def test_the_same_arguments_search_the_same_cases(fuzz: Callable[..., tuple[int, Path]]) -> None:
    one, other = ({item.case_id for item in read_records(fuzz("--search", "--cases", "40")[1])} for _ in range(2))
    assert one == other


def test_a_corpus_that_is_not_there_is_wrong_usage(
    fuzz: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert fuzz("--corpus", "nowhere.jsonl")[0] == 2
    assert "expected a file of cases" in capsys.readouterr().err


def test_a_search_runs_in_lanes(tmp_path: Path) -> None:
    (tmp_path / "my_kernels.py").write_text(PLUGIN, encoding="utf-8")
    fixed = ["--plugin", str(tmp_path / "my_kernels.py"), "--candidate", "my-right", "--largest", "5", "--jobs", "1"]
    assert main(["fuzz", "--op", "rms_norm", *fixed, "--search", "--cases", "2", "--out", str(tmp_path / "out")]) == 0
    assert {entry.candidate for entry in read_corpus(tmp_path / "out" / "corpus.jsonl")} == {"my-right"}
