"""Commands as a user types them: exit codes, one line on stderr for every wrong input, what is printed."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import reference
from harness.cli.main import COMMANDS, main
from harness.ops import OPS
from harness.store import read_records
from optimized.catalogue import CANDIDATES
from tests.harness.test_candidates import PLUGIN

NORM = '{"op":"rms_norm","batch":1,"tokens":2,"channels":8}'
RULE = '{"op":"attention","batch":1,"query_tokens":2,"key_tokens":2,"key_heads":1,"group":1,"head_dim":4,"value_dim":4'
FUZZ = ("fuzz", "--op", "rms_norm")


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """Returns the path of a plug-in outside of the checkout with one right and one wrong kernel."""
    path = tmp_path / "my_kernels.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return str(path)


WRONG: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no-command": ((), ("COMMAND",)),
    "command": (("fuz",), ("'fuz'", "did you mean 'fuzz'?")),
    "option": ((*FUZZ, "--cases-of-beer", "3"), ("--cases-of-beer",)),
    "operation": (("fuzz", "--op", "rms_nrom"), ("'rms_nrom'", "did you mean 'rms_norm'?")),
    "operation-of-describe": (("describe", "rop"), ("'rop'", "did you mean 'rope'?")),
    "operation-of-check": (("check", "--suite", "smoke", "--op", "x"), ("'x'", "expected one of")),
    "operation-of-bench": (("bench", "--op", "atention"), ("did you mean 'attention'?",)),
    "operation-of-certify": (("certify", "--op", "rop"), ("did you mean 'rope'?",)),
    "candidate": ((*FUZZ, "--candidate", "torch-rms-norm-fp23"), ("did you mean 'torch-rms-norm-fp32'?",)),
    "candidate-of-another-operation": (
        (*FUZZ, "--candidate", CANDIDATES[-1].name), (f"computes {CANDIDATES[-1].op}, expected one for rms_norm",)
    ),
    "regime": ((*FUZZ, "--regime", "nromal"), ("'nromal'", "did you mean 'normal'?")),
    "suite": (("check", "--suite", "smoky"), ("'smoky'", "did you mean 'smoke'?")),
    "profile": (("run", "--profile", "quik"), ("'quik'", "did you mean 'quick'?")),
    "baseline": (("bench", "--op", "rms_norm", "--baseline", "x"), ("--baseline", "'x'")),
    "no-cases": ((*FUZZ, "--cases", "0"), ("--cases", "'0'", "at least 1")),
    "cases-no-number": ((*FUZZ, "--cases", "many"), ("--cases", "'many'")),
    "minutes-no-number": ((*FUZZ, "--minutes", "x"), ("--minutes", "'x'", "positive number")),
    "minutes-negative": ((*FUZZ, "--minutes=-1"), ("--minutes", "'-1'")),
    "minutes-nan": ((*FUZZ, "--minutes", "nan"), ("--minutes", "'nan'")),
    "seed": ((*FUZZ, "--seed", "x"), ("--seed", "'x'")),
    "largest": ((*FUZZ, "--largest", "0"), ("--largest", "'0'")),
    "device": ((*FUZZ, "--device", "tpu"), ("--device", "'tpu'")),
    "plugin-missing": ((*FUZZ, "--plugin", "nowhere.py"), ("nowhere.py", "path of a Python file")),
    "plugin-name-missing": ((*FUZZ, "--plugin", "nowhere.py:X"), ("path of a Python file",)),
    "case-missing": (("replay", "nowhere.json"), ("nowhere.json",)),
    "case-no-json": (("replay", '{"op":'), ("not JSON",)),
    "case-schema": (("replay", '{"schema":9,"op":"rms_norm"}'), ("schema 9, expected 1",)),
    "case-field": (("replay", NORM[:-1] + ',"chanels":3}'), ("'chanels'", "did you mean 'channels'?")),
    "case-window": (("replay", RULE + ',"window_left":-2}'), ("window_left", "got -2")),
    "case-rope": (("replay", '{"op":"rope","batch":1,"tokens":1,"heads":1,"width":5}'), ("width", "even number")),
    "case-regime": (("replay", NORM[:-1] + ',"regime":"nromal"}'), ("did you mean 'normal'?",)),
    "case-dtype": (("replay", NORM[:-1] + ',"dtype":"fp8"}'), ("dtype", "'fp8'")),
    "relation": ((*FUZZ, "--relations", "run_twice,row_by_rwo"), ("'row_by_rwo'", "did you mean 'row_by_row'?")),
    "report-missing": (("report", "nowhere"), ("records.jsonl",)),
    "shard-no-number": ((*FUZZ, "--shard", "one"), ("--shard", "'one'", "i/n")),
    "shard-zero": ((*FUZZ, "--shard", "0/2"), ("--shard", "'0/2'", "for instance 2/8")),
    "shard-beyond": (("check", "--suite", "smoke", "--shard", "3/2"), ("--shard", "'3/2'")),
    "shard-of-run": (("run", "--shard", "1"), ("--shard", "'1'")),
    "shard-of-a-search": ((*FUZZ, "--search", "--shard", "1/2"), ("--shard", "with a search")),
    "engine": ((*FUZZ, "--engine", "rya"), ("--engine", "'rya'")),
    "address-without-engine": ((*FUZZ, "--address", "here:1"), ("--address", "beside --engine ray")),
    "jobs": ((*FUZZ, "--jobs", "-3"), ("--jobs", "'-3'", "at least 1")),
    "limit": ((*FUZZ, "--limit", "soon"), ("--limit", "'soon'")),
    "corpus-missing": ((*FUZZ, "--corpus", "nowhere"), ("--corpus", "'nowhere'", "file of cases")),
    "merge-nothing": (("merge",), ("DIR",)),
    "merge-missing": (("merge", "nowhere"), ("merge", "'nowhere'", "run.json")),
    "merge-twice": (("merge", "here", "here"), ("twice",)),
    "gate-nothing": (("gate",), ("DIR", "--baseline")),
    "gate-missing": (("gate", "nowhere", "--baseline", "x.json"), ("'nowhere'", "expected a folder of attest run")),
    "gate-no-baseline": (("gate", "nowhere"), ("--baseline",)),
    "power-operation": (("power", "--op", "rop"), ("did you mean 'rope'?",)),
    "power-fault": (("power", "--fault", "B999"), ("'B999'",)),
    "codegen-arch": (("codegen", "--arch", "sm_1"), ("--arch", "'sm_1'")),
    "codegen-operation": (("codegen", "--op", "rop"), ("did you mean 'rope'?",)),
    "replay-no-case": (("replay",), ("CASE",)),
    "replay-folder": (("replay", "."), ("case: got '.'",)),
    "describe-nothing": (("describe",), ("OP",)),
    "repeats": (("bench", "--op", "rope", "--repeats", "0"), ("--repeats", "'0'")),
    "seed-of-run": (("run", "--seed", "1.5"), ("--seed", "'1.5'")),
    "option-of-another-command": (("list", "--jsno"), ("list", "'--jsno'", "did you mean '--json'?")),
    "a-word-too-many": (("describe", "rope", "attention"), ("describe", "'attention'", "expected options of")),
    "value-missing": (("certify", "--op"), ("--op", "see attest certify --help")),
    "out-is-a-file": (("run", "--out", __file__), ("--out", "which is a file", "expected a new or an empty folder")),
    "resume-missing": (("run", "--resume", "nowhere"), ("--resume", "folder of an earlier run")),
}  # fmt: skip


@pytest.mark.parametrize("command", sorted(module.NAME for module in COMMANDS))
def test_the_help_of_every_command_ends_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example: attest {command}" in capsys.readouterr().out


def test_the_table_of_bad_inputs_is_long() -> None:
    assert len(WRONG) >= 40


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Returns the one line that a wrong command leaves, after checking that it is one and the exit code is 2."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    line = refused(capsys, *arguments)
    assert [word for word in words if word not in line] == []


def test_a_case_that_fits_no_memory_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", NORM.replace('"tokens":2', '"tokens":1000000000000')]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "the case needs more memory than there is" in line


def test_a_plug_in_that_does_not_import_is_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('one\\ntwo')", encoding="utf-8")
    assert "does not import" in refused(capsys, *FUZZ, "--plugin", str(tmp_path / "broken.py"))


def test_a_plug_in_without_a_candidate_of_the_operation_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], plugin: str
) -> None:
    assert "no candidate for operation 'rope'" in refused(capsys, "fuzz", "--op", "rope", "--plugin", plugin)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("command", [FUZZ, ("run",), ("check", "--suite", "smoke"), ("bench", "--op", "rms_norm")])
def test_a_device_that_is_not_there_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert "expected a machine with a CUDA device" in refused(capsys, *command, "--device", "cuda")


def test_a_report_of_an_empty_folder_is_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "records.jsonl" in refused(capsys, "report", str(tmp_path))


def test_a_report_of_no_record_is_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").touch()
    assert "without a single record" in refused(capsys, "report", str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", '{"command":"fuzz"}', '{"command":"run","profile":"x"}'])
def test_only_an_interrupted_run_is_resumed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:  # fmt: skip
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    assert refused(capsys, "run", "--resume", str(tmp_path)).startswith("attest: --")


def test_a_folder_that_cannot_be_written_is_an_error_of_the_testbench(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, plugin: str
) -> None:
    (tmp_path / "file").touch()
    assert main([*FUZZ, "--plugin", plugin, "--out", str(tmp_path / "file" / "folder"), "--cases", "1"]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_fault_of_the_testbench_itself_is_exit_code_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.cli.describe.operation", lambda _: 1 / 0)
    assert main(["describe", "rope"]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("op", ["rms_norm", "attention"])
def test_mismatched_dtypes_are_refused_by_name(op: str) -> None:
    x = torch.ones(1, 2, 2, 4, dtype=torch.float64)
    arguments: dict[str, tuple[tuple[torch.Tensor, ...], dict[str, Any]]] = {
        "rms_norm": ((x, torch.ones(4)), {"eps": 1e-6}),
        "attention": ((x, x.float(), x), {"scale": 1.0}),
    }
    tensors, options = arguments[op]
    with pytest.raises((TypeError, ValueError), match=r"(weight|key|query).*: got "):
        getattr(reference, op)(*tensors, **options)


def test_heads_that_do_not_divide_are_refused_by_name() -> None:
    query, key = torch.ones(1, 2, 3, 4), torch.ones(1, 2, 2, 4)
    with pytest.raises(ValueError, match=r"(query|key).*: got "):
        reference.attention(query, key, key, scale=1.0)


# -- what is printed --------


def test_list_names_every_operation_and_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["operations"] == list(OPS)
    assert {item["name"] for item in data["candidates"]} >= {item.name for item in CANDIDATES}


def test_list_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert [item.name for item in CANDIDATES if item.name not in printed] == []


@pytest.mark.parametrize("op", OPS)
def test_describe_says_call_outputs_regimes_and_fields(capsys: pytest.CaptureFixture[str], op: str) -> None:
    assert main(["describe", op]) == 0
    printed = capsys.readouterr().out
    row = OPS[op]
    words = [row.call, *row.case.regimes, *(f"output {output.name}" for output in row.outputs), "seed: int = 0"]
    assert [word for word in words if word not in printed] == []


def test_replay_of_a_right_kernel_passes(capsys: pytest.CaptureFixture[str], plugin: str) -> None:
    assert main(["replay", NORM, "--plugin", plugin, "--candidate", "my-right"]) == 0
    assert "my-right: PASS" in capsys.readouterr().out


def test_replay_of_a_wrong_kernel_explains_the_worst_element(
    capsys: pytest.CaptureFixture[str], plugin: str
) -> None:  # fmt: skip
    assert main(["replay", NORM, "--plugin", plugin, "--candidate", "my-wrong"]) == 1
    printed = capsys.readouterr().out
    words = (
        "my-wrong: FAIL_NUMERIC",
        "worst element [batch=0, token=",
        "got",
        "expected",
        "bound",
        "ratio",
        "grad:weight",
    )
    assert [word for word in words if word not in printed] == []


def test_a_plug_in_outside_of_the_checkout_is_fuzzed_and_its_failure_replays(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, plugin: str
) -> None:
    out = tmp_path / "out"
    options = ["--plugin", plugin, "--cases", "3", "--largest", "9", "--jobs", "1", "--out", str(out)]
    assert main([*FUZZ, *options]) == 1
    verdicts = {
        name: {r.verdict.value for r in read_records(out) if r.candidate == name} for name in ("my-right", "my-wrong")
    }
    assert verdicts == {"my-right": {"PASS"}, "my-wrong": {"FAIL_NUMERIC"}}
    printed = capsys.readouterr().out
    lines = [line.strip() for line in printed.splitlines() if line.strip().startswith("attest replay ")]
    assert len(lines) == 1
    assert main(shlex.split(lines[0])[1:]) == 1
    assert "my-wrong: FAIL_NUMERIC" in capsys.readouterr().out


def test_a_broken_relation_is_printed_with_the_line_that_asks_for_it_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = str(Path(__file__).parent / "relations" / "broken.py")
    options = ["--plugin", broken, "--cases", "2", "--largest", "5", "--jobs", "1", "--out", str(tmp_path / "out")]
    named = ["--candidate", "breaks-for-inference", "--relations", "for_inference"]
    assert main([*FUZZ, *options, *named]) == 1
    printed = capsys.readouterr().out
    (line,) = (line.strip() for line in printed.splitlines() if line.strip().startswith("attest replay "))
    assert line.endswith("--relations for_inference")
    assert main(shlex.split(line)[1:]) == 1
    assert "relation for_inference: FAIL_RELATION" in capsys.readouterr().out


def test_no_relation_is_called_when_none_is_asked_for(tmp_path: Path) -> None:
    broken = str(Path(__file__).parent / "relations" / "broken.py")
    options = ["--plugin", broken, "--cases", "4", "--largest", "5", "--jobs", "1", "--out", str(tmp_path / "out")]
    assert main([*FUZZ, *options, "--candidate", "breaks-for-inference", "--relations", "none"]) == 0
    names = {each.name for record in read_records(tmp_path / "out") for each in record.relations}
    assert names == {"inputs_unchanged", "writes_in_bounds"}


def test_a_saved_failure_is_a_case_to_replay(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, plugin: str
) -> None:  # fmt: skip
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema": 1, "case": json.loads(NORM), "verdict": "FAIL_NUMERIC"}), encoding="utf-8")
    assert main(["replay", str(path), "--plugin", plugin, "--candidate", "my-right"]) == 0
    assert "my-right: PASS" in capsys.readouterr().out


def test_a_folder_with_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "records.jsonl").write_text("{}\n", encoding="utf-8")
    assert main([*FUZZ, "--out", str(tmp_path)]) == 2
    assert "holds the records of another run" in capsys.readouterr().err


def test_a_candidate_of_another_device_is_refused(odd_plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FUZZ, "--plugin", odd_plugin, "--candidate", "cuda-only"]) == 2
    assert "cuda-only (cuda)" in capsys.readouterr().err


def test_cases_that_no_candidate_can_take_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wide.py"
    path.write_text(PLUGIN.replace("float32", "float64"), encoding="utf-8")
    assert main(["check", "--suite", "smoke", "--op", "rms_norm", "--plugin", str(path)]) == 2
    assert "no candidate stores a dtype of these cases" in capsys.readouterr().err
