import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import case_from_data, case_from_text
from harness.errors import UsageError
from harness.operations.case import Case
from harness.ops import OPS
from harness.strategies import cases

NORM: dict[str, Any] = {"op": "rms_norm", "batch": 1, "tokens": 2, "channels": 8}
ROPE: dict[str, Any] = {"op": "rope", "batch": 1, "tokens": 2, "heads": 1, "width": 8}
ATTENTION: dict[str, Any] = {
    "op": "attention", "batch": 1, "query_tokens": 2, "key_tokens": 2, "key_heads": 1, "group": 1, "head_dim": 4,
    "value_dim": 4,
}  # fmt: skip
VARLEN: dict[str, Any] = {
    "op": "varlen_attention", "query_lengths": [2, 3], "key_lengths": [2, 3], "key_heads": 1, "group": 1,
    "head_dim": 4, "value_dim": 4,
}  # fmt: skip
RULE: dict[str, Any] = {
    "op": "gated_delta_rule", "batch": 1, "tokens": 5, "key_heads": 1, "group": 1, "key_dim": 4, "value_dim": 4,
}  # fmt: skip
GROUPED: dict[str, Any] = {
    "op": "grouped_query_attention", "batch": 1, "tokens": 2, "hidden_size": 8, "key_heads": 1, "group": 1,
    "head_dim": 8,
}  # fmt: skip


def any_case() -> st.SearchStrategy[Case]:
    return st.one_of([cases(row, dtypes=("float64", "float32", "bfloat16", "float16")) for row in OPS.values()])


def refusal(data: dict[str, Any] | str) -> str:
    """Returns the sentence by which a case is refused."""
    with pytest.raises(UsageError) as caught:
        case_from_text(data) if isinstance(data, str) else case_from_data(data)
    return str(caught.value)


@given(any_case())
def test_a_case_survives_its_json(case: Case) -> None:
    assert case_from_text(case.to_line()) == case


@given(any_case())
def test_a_case_is_one_line(case: Case) -> None:
    assert "\n" not in case.to_line()


@given(any_case())
def test_the_id_follows_the_case_and_not_its_spelling(case: Case) -> None:
    shuffled = dict(reversed(json.loads(case.to_line()).items()))
    assert case_from_data(shuffled).case_id == case.case_id


@given(any_case(), st.integers(0, 2**31 - 1))
def test_another_seed_has_another_id(case: Case, seed: int) -> None:
    assert (case.replaced(seed=seed).case_id == case.case_id) == (seed == case.seed)


def test_the_id_of_a_case_is_the_same_forever() -> None:
    assert case_from_data(NORM).case_id == "ea974558bc4a"


def test_absent_fields_take_their_defaults() -> None:
    assert case_from_data(NORM) == case_from_data({**NORM, "schema": 1, "dtype": "float32", "seed": 0, "eps": 1e-6})


def test_a_case_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text(json.dumps(NORM), encoding="utf-8")
    assert case_from_text(str(tmp_path / "case.json")) == case_from_data(NORM)


def test_the_case_of_a_record_is_taken() -> None:
    assert case_from_text(json.dumps({"schema": 1, "verdict": "PASS", "case": NORM})) == case_from_data(NORM)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param({**NORM, "op": "rms_nrom"}, ("'rms_nrom'", "did you mean 'rms_norm'?"), id="operation"),
        pytest.param({"batch": 1}, ("expected an 'op'",), id="no-operation"),
        pytest.param({**NORM, "channel": 3}, ("'channel'", "did you mean 'channels'?"), id="unknown-field"),
        pytest.param({"op": "rms_norm", "batch": 1}, ("got no tokens, channels",), id="missing-fields"),
        pytest.param({**NORM, "schema": 2}, ("schema 2", "expected 1"), id="schema"),
        pytest.param({**NORM, "regime": "nromal"}, ("'nromal'", "did you mean 'normal'?"), id="regime"),
        pytest.param({**NORM, "dtype": "float23"}, ("'float23'", "did you mean 'float32'?"), id="dtype"),
        pytest.param({**NORM, "dtype": "tf32"}, ("'tf32'", "float32"), id="not-a-storage-format"),
        pytest.param({**NORM, "layout": "fussed"}, ("did you mean 'fused'?",), id="layout"),
        pytest.param({**NORM, "cotangent": "onehot"}, ("did you mean 'one_hot'?",), id="cotangent"),
        pytest.param({**NORM, "batch": 0}, ("batch", "got 0", "at least 1"), id="empty-batch"),
        pytest.param({**NORM, "batch": 1.0}, ("batch", "got 1.0", "expected int"), id="float-for-int"),
        pytest.param({**NORM, "batch": True}, ("batch", "got True", "expected int"), id="bool-for-int"),
        pytest.param({**NORM, "tokens": "2"}, ("tokens", "got '2'", "expected int"), id="text-for-int"),
        pytest.param({**NORM, "zero_centered": 1}, ("zero_centered", "expected bool"), id="int-for-bool"),
        pytest.param({**NORM, "eps": None}, ("eps", "expected float"), id="none-for-float"),
        pytest.param({**NORM, "eps": 0}, ("eps", "positive"), id="zero-eps"),
        pytest.param({**NORM, "dtype": 32}, ("dtype", "expected str"), id="int-for-text"),
        pytest.param({**NORM, "regime": ["normal"]}, ("regime", "expected str"), id="list-for-text"),
        pytest.param({**NORM, "seed": -1}, ("seed", "got -1", "at least 0"), id="negative-seed"),
        pytest.param({**NORM, "seed": 2**40}, ("seed", "at most"), id="seed-too-large"),
        pytest.param({**ROPE, "width": 7}, ("width", "got 7", "even number"), id="odd-rope-width"),
        pytest.param({**ROPE, "style": "Half"}, ("style", "did you mean 'half'?"), id="rope-style"),
        pytest.param({**GROUPED, "rope_dim": 5}, ("rope_dim", "even number"), id="odd-partial-rope"),
        pytest.param({**GROUPED, "rope_dim": 10}, ("rope_dim", "at most head_dim = 8"), id="rope-wider-than-head"),
        pytest.param({**GROUPED, "qk_norm_eps": -1.0}, ("qk_norm_eps", "positive"), id="negative-qk-eps"),
        pytest.param({**ATTENTION, "window_left": -1}, ("window_left", "got -1", "at least 0"), id="negative-window"),
        pytest.param({**ATTENTION, "window_left": 1.5}, ("window_left", "int | None"), id="float-window"),
        pytest.param({**ATTENTION, "scale": float("nan")}, ("scale", "nan", "finite"), id="scale-not-a-number"),
        pytest.param({**ATTENTION, "scale": float("inf")}, ("scale", "inf", "finite"), id="infinite-scale"),
        pytest.param({**ATTENTION, "bias": "heads"}, ("bias", "did you mean 'head'?"), id="bias"),
        pytest.param({**VARLEN, "key_lengths": [2]}, ("query_lengths and key_lengths",), id="sequences-do-not-pair"),
        pytest.param({**VARLEN, "key_lengths": [2, -3]}, ("at least 0",), id="negative-length"),
        pytest.param({**VARLEN, "query_lengths": [0, 0]}, ("not all 0",), id="empty-pack"),
        pytest.param({**VARLEN, "query_lengths": [2, "3"]}, ("query_lengths", "tuple"), id="text-in-lengths"),
        pytest.param({**RULE, "sequence_lengths": [2, 2]}, ("add up to tokens = 5",), id="pack-does-not-add-up"),
        pytest.param({**RULE, "batch": 2, "sequence_lengths": [2, 3]}, ("batch 1",), id="packed-batch"),
    ],
)
def test_a_wrong_case_is_refused_in_one_sentence(data: dict[str, Any], words: tuple[str, ...]) -> None:
    sentence = refusal(data)
    assert [word for word in words if word not in sentence] == []
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", "not JSON", id="not-json"),
        pytest.param('{"op": 1', "not JSON", id="torn"),
        pytest.param("nowhere.json", "path of a file", id="no-file"),
        pytest.param("[" + "1," * 400 + "1]", "path of a file", id="longer-than-any-file-name"),
        pytest.param("a\0b", "path of a file", id="null-byte"),
        pytest.param("", "path of a file", id="empty"),
        pytest.param('{"op": ["rms_norm"]}', "operation", id="list-for-operation"),
        pytest.param('{"case": {"op": "nope"}}', "'nope'", id="record-with-an-unknown-operation"),
    ],
)
def test_text_that_is_no_case_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"[1, 2]", b"3", b""], ids=["not-utf8", "list", "number", "empty"]
)
def test_a_file_that_holds_no_case_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "case.json").write_bytes(content)
    assert refusal(str(tmp_path / "case.json")).startswith("case: got")


@given(
    st.dictionaries(
        st.sampled_from(["schema", "op", "batch", "tokens", "channels", "eps", "dtype", "seed", "layout", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("rms_norm"),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
    )
)
def test_any_json_is_a_case_or_a_usage_error(data: dict[str, Any]) -> None:
    try:
        assert isinstance(case_from_data(data), Case)
    except UsageError:
        assert refusal(data)
