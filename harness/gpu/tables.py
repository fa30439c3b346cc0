"""Tables of what campaigns on a GPU left: versions, verdicts, speed beside others, as Markdown on standard output.

``python -m harness.gpu.tables DIR...`` reads the folders that ``python -m harness.gpu --out DIR`` wrote. Every figure
is one of a record.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.gpu.benchmark import LINES
from harness.store import RECORDS
from harness.truth import GRAD

__all__ = ["error_table", "machine_table", "main", "speed_tables", "unfinished", "verdict_table"]

Data = Mapping[str, Any]

_COMMON = ("schema", "op", "dtype", "layout", "regime", "cotangent", "seed")
_OURS = ("triton-", "flash4-")
_USUAL: Mapping[str, tuple[str | int, ...]] = {
    "key_tokens": ("query_tokens",), "value_dim": ("head_dim", "key_dim"), "group": (1,), "window_right": (0,),
}  # fmt: skip
"""Fields that are not told where they have the value, or that of the field, which the standard shapes mostly have."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables of the folders together; returns 2 where a folder holds nothing of a campaign."""
    parser = argparse.ArgumentParser(prog="python -m harness.gpu.tables", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folder that a campaign wrote")
    folders: list[Path] = parser.parse_args(arguments).folders
    for folder in folders:
        if not any(folder.glob("*/*.json*")):
            sys.stderr.write(f"DIR: got {str(folder)!r}, expected a folder that python -m harness.gpu wrote\n")
            return 2
    parts = (machine_table(folders), verdict_table(folders), *speed_tables(folders), error_table(folders),
             unfinished(folders))  # fmt: skip
    sys.stdout.write("\n\n".join(part for part in parts if part) + "\n")
    return 0


def machine_table(folders: Sequence[Path]) -> str:
    """Returns what the machines were: a row per folder."""
    rows = []
    for folder in folders:
        path = folder / "machine" / "machine.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            ceilings, versions = found["ceilings"], {k: v for k, v in found["versions"].items() if v is not None}
            rows.append([
                found["environment"]["device_name"] or found["environment"]["device"], found["commit"] or "-",
                f"{ceilings['copy_gb_s']:.0f} GB/s", f"{ceilings['matmul_tflop_s']:.0f} TFLOP/s",
                ", ".join([*(f"{name} {version}" for name, version in versions.items()),
                           str(found["environment"]["ptxas"]), f"driver {found['environment']['driver']}"]),
            ])  # fmt: skip
    return _table(["machine", "commit", "copy", "bfloat16 product", "versions"], rows)


def verdict_table(folders: Sequence[Path]) -> str:
    """Returns how many records of an operation and format have which verdict, the worst ratio of a PASS beside."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    worst: dict[tuple[str, str], float] = {}
    for record in _lines(folders, RECORDS):
        key = record["case"]["op"], record["case"]["dtype"]
        counts.setdefault(key, Counter())[record["verdict"]] += 1
        if record["verdict"] == "PASS":
            ratios = [each["max_ratio"] for each in record["judgements"] if each["max_ratio"] is not None]
            worst[key] = max(worst.get(key, 0.0), *ratios, 0.0)
    total = sum(counts.values(), Counter())
    names = sorted(total, key=lambda name: -total[name])
    rows = [
        [
            op,
            dtype,
            str(found.total()),
            *(str(found[name] or "-") for name in names),
            f"{worst.get((op, dtype), 0):.2f}",
        ]
        for (op, dtype), found in sorted(counts.items())
    ]
    if rows:
        top = f"{max(worst.values(), default=0.0):.2f}"
        rows.append(["all", "", str(total.total()), *(str(total[name]) for name in names), top])
    return _table(["operation", "format", "records", *names, "worst ratio of a PASS"], rows)


def speed_tables(folders: Sequence[Path]) -> Iterator[str]:
    """Yields a table per operation: times of our kernels, share of the floor, and time as a multiple of others'."""
    # A process that lost the device times its shape again, without the arm that lost it: the last line counts.
    rows: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for line in _lines(folders, LINES):
        if not (line["is_ours"] and line["arm"].startswith(_OURS) and "median_us" in line):
            continue
        beside = [
            f"{name} {ratio:.2f} ({low:.2f} to {high:.2f})"
            for name, (ratio, low, high, *_) in line["against"].items()
        ]  # fmt: skip
        share = "-" if line["share"] is None else f"{100 * line['share']:.0f} %"
        times = f"{line['median_us']:.0f} ({line['low_us']:.0f} to {line['high_us']:.0f})"
        key = (_shape(line["case"]), line["phase"], line["arm"])
        rows.setdefault(line["case"]["op"], {})[key] = [*key, times, share, ", ".join(beside)]
    for op, found in rows.items():
        head = ["shape", "phase", "kernel", "µs (interval)", "of the floor", "time as a multiple of that of"]
        yield f"`{op}`\n\n{_table(head, list(found.values()))}"


def error_table(folders: Sequence[Path]) -> str:
    """Returns the errors of who was timed: root mean squares over those of the expected values, largest of all shapes.

    A gradient is named. ``BEYOND_OURS`` is no failure: a peer without a recipe of its own is beyond that of ours.
    """
    found: dict[tuple[str, str], tuple[set[str], dict[str, float]]] = {}
    for line in _lines(folders, LINES):
        if line["arm"] and line.get("errors"):
            verdicts, errors = found.setdefault((line["case"]["op"], line["arm"]), (set(), {}))
            verdicts.add(line["verdict"])
            for name, error in line["errors"].items():
                errors[name] = max(errors.get(name, 0.0), error)
    rows = []
    for (op, arm), (verdicts, errors) in found.items():
        gradients = [(error, name.removeprefix(GRAD)) for name, error in errors.items() if name.startswith(GRAD)]
        worst = "{:.1e} ({})".format(*max(gradients)) if gradients else "-"
        rows.append([op, arm, ", ".join(sorted(verdicts)), f"{errors['out']:.1e}", worst])
    return _table(["operation", "arm", "verdict", "error of out", "largest error of a gradient"], rows)


def unfinished(folders: Sequence[Path]) -> str:
    """Returns what a benchmark says of arms that it did not time, or whose verdict is no PASS, once each."""
    said: dict[tuple[str, str, str], str] = {}
    for line in _lines(folders, LINES):
        if line["arm"] and line["problem"]:
            said.setdefault((line["case"]["op"], line["arm"], line["phase"]), line["problem"][:160])
    rows = [[op, arm, phase or "verification", text.replace("|", "/")] for (op, arm, phase), text in said.items()]
    return _table(["operation", "arm", "phase", "what the benchmark says"], rows)


def _lines(folders: Sequence[Path], name: str) -> Iterator[Data]:
    """Yields the lines of all files of a name; attempts that were put aside (``fuzz.1``) do not count."""
    for folder in folders:
        for path in sorted(folder.glob(f"*/{name}")):
            if "." not in path.parent.name:
                for line in path.read_text(encoding="utf-8").splitlines():
                    if line.endswith("}"):
                        yield json.loads(line)


def _shape(case: Data) -> str:
    fields = {name: value for name, value in case.items() if name not in _COMMON}
    told = {name: value for name, value in fields.items() if isinstance(value, int) and value is not False}
    for name, others in _USUAL.items():
        if name in told and told[name] in {fields.get(other) if isinstance(other, str) else other for other in others}:
            del told[name]
    return ", ".join(f"{name} {value}" if value is not True else name for name, value in told.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
