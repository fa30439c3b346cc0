"""Which cases of a campaign are kept, and the file that they are kept in."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.hardest import Hard, Hardest, hardness, read_corpus, write_corpus
from harness.operations.case import Case
from harness.ops import OPS
from harness.records import Verdict
from tests.harness.searching import NORM, norm, record


def hard(case: Case, ratio: float, gain: float, candidate: str = "c") -> Hard:
    return Hard(case=case, candidate=candidate, ratio=ratio, tensor="out", gain=gain, test="out gain")


def test_the_hardest_by_ratio_and_by_gain_are_kept() -> None:
    regimes = OPS["rms_norm"].case.regimes[:4]
    ratios, gains = (0.1, 0.9, 0.2, 0.3), (0.8, 0.1, 0.2, 0.3)
    entries = [
        hard(norm(regime=name), *pair) for name, pair in zip(regimes, zip(ratios, gains, strict=True), strict=True)
    ]
    kept = Hardest(entries, kept=1).entries()
    assert [(entry.ratio, entry.gain) for entry in kept] == [(0.9, 0.1), (0.1, 0.8)]


def test_one_case_per_regime_is_kept() -> None:
    kept = Hardest([hard(norm(seed=seed), 0.1 * seed, 0.0) for seed in range(1, 5)]).entries()
    assert [entry.case.seed for entry in kept] == [4]


def test_a_case_that_is_judged_again_is_kept_as_it_is_now() -> None:
    kept = Hardest([hard(norm(), 0.9, 0.9), hard(norm(), 0.2, 0.1)]).entries()
    assert [(entry.ratio, entry.gain) for entry in kept] == [(0.2, 0.1)]


def test_hardness_names_the_tensor_and_the_test() -> None:
    found = hardness(record(norm(), 0.5, 0.25, 0.75))
    assert found == Hard(case=norm(), candidate="c", ratio=0.5, tensor="out", gain=0.75, test="out test1")


def test_what_cannot_be_decided_is_not_hard() -> None:
    assert hardness(record(norm(), 7.0, verdict=Verdict.NO_POWER)) is None


def test_half_a_unit_of_the_store_is_not_hard() -> None:
    found = record(norm(), 0.99, 0.25)
    stored = dataclasses.replace(found.judgements[0], nearest_ratio=0.98)
    other = dataclasses.replace(found.judgements[0], output="lse", max_ratio=0.4)
    entry = hardness(dataclasses.replace(found, judgements=[stored, other]))
    assert entry is not None
    assert (entry.ratio, entry.tensor, entry.gain) == (0.4, "lse", 0.25)


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    entries = [hard(norm(), 0.5, 0.25), hard(norm(dtype="bfloat16"), float("inf"), 0.0, candidate="other")]
    write_corpus(tmp_path / "corpus.jsonl", entries)
    assert read_corpus(tmp_path / "corpus.jsonl") == entries


LINE: dict[str, Any] = {"case": NORM, "candidate": "c", "ratio": 0.5, "tensor": "out", "gain": 0.1, "test": "out gain"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", ("line 1", "not JSON"), id="broken-line"),
        pytest.param("[]", ("line 1", "list", "expected an object"), id="no-object"),
        pytest.param({"ration": 1}, ("line 1", "'ration'", "did you mean 'ratio'?"), id="unknown-field"),
        pytest.param({"case": {**NORM, "tokens": 0}}, ("line 1", "tokens", "got 0"), id="impossible-case"),
        pytest.param({"case": 3}, ("line 1", "case: got 3"), id="case-no-object"),
        pytest.param({"ratio": "large"}, ("ratio", "'large'", "at least 0"), id="ratio-no-number"),
        pytest.param({"gain": -1}, ("gain", "-1", "at least 0"), id="negative-gain"),
        pytest.param({"tensor": 1}, ("expected text",), id="tensor-no-text"),
        pytest.param('{"ratio":0.5}', ("got no case, candidate",), id="missing-fields"),
    ],
)
def test_a_corpus_that_is_wrong_is_refused_in_one_sentence(
    tmp_path: Path, text: str | dict[str, Any], words: tuple[str, ...]
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(text if isinstance(text, str) else json.dumps({**LINE, **text}), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_corpus(path)
    assert [word for word in ("--corpus", *words) if word not in str(caught.value)] == []
