"""``attest codegen --beside``: our kernels and those of other projects on the same cases, in one table."""

import argparse
import json
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from harness.candidates import find_candidates
from harness.cli.options import new_folder
from harness.cli.progress import output_console
from harness.codegen.beside import SENTENCE, Line, beside_case, lines_of, other_line, totals, write_beside
from harness.codegen.cases import probe_of
from harness.codegen.gate import violations
from harness.codegen.offline import assembler_version
from harness.codegen.results import PROJECTS, Examination, write_results
from harness.codegen.survey import GIGABYTE, Survey, Task
from harness.codegen.targets import missed
from harness.environment import snapshot
from harness.errors import UsageError
from harness.ops import OPS, operation

__all__ = ["execute_beside"]

_KERNELS = ".jsonl"


def execute_beside(arguments: argparse.Namespace, archs: Sequence[str], jobs: int) -> int:
    """Compiles what is installed and every ``--beside``, writes the tables, prints the passes.

    A file ``*.jsonl`` holds kernels that ``python -m tests.optimized.compile_flash4`` printed. Returns 1 where an
    installed candidate misses a target or a limit, or fails; what other projects do is told.
    """
    folder = new_folder(arguments.out)
    sources = [None, *(each for each in arguments.beside if not each.endswith(_KERNELS))]
    others = [line for each in arguments.beside if each.endswith(_KERNELS) for line in _kernels(Path(each), archs)]
    ours, *theirs = (list(_examined(source, arguments, archs, jobs)) for source in sources)
    found = [*ours, *(item for items in theirs for item in items)]
    lines = [*lines_of(found), *others]
    absent = [f"{item.candidate} on {item.arch}: {item.status.upper()}: {item.sentence}" for item in found
              if item.status not in {"ok", "no_kernel"}]  # fmt: skip
    if not others and (not arguments.op or "attention" in arguments.op):
        absent.append("flash-attn-4: UNSUPPORTED: got no file of its kernels, expected one that "
                      "`python -m tests.optimized.compile_flash4 --cases beside` printed")  # fmt: skip
    ordered = sorted(lines, key=lambda line: (line.arch, list(OPS).index(line.op)))
    command = _command(arguments)
    write_beside(folder, ordered, command=command, versions=_versions(archs), absent=absent)
    assemblers = {arch: assembler_version(arch) for arch in archs}
    projects = {project: installed for project in PROJECTS if (installed := _version(project)) is not None}
    write_results(folder, found, {**snapshot("cpu", 1), "assemblers": assemblers, "projects": projects})
    console = output_console()
    for row in totals(ordered):
        console.print("  ".join(f"{name} {value:,.0f}" if isinstance(value, float) else f"{name} {value}"
                                for name, value in row.items()), markup=False, soft_wrap=True)  # fmt: skip
    for sentence in (*absent, f"{folder}/beside.md and beside.csv. {SENTENCE}"):
        console.print(sentence, markup=False, soft_wrap=True)
    broken = [*missed(ours), *(violation.sentence for violation in violations(ours))]
    for sentence in broken:
        console.print(f"missed: {sentence}", markup=False, soft_wrap=True)
    return int(bool(broken))


def _examined(
    plugin: str | None, arguments: argparse.Namespace, archs: Sequence[str], jobs: int
) -> Iterator[Examination]:
    """Yields the examinations of the candidates of a plug-in, or of the installed ones, that have a Triton kernel."""
    tasks = []
    for item in find_candidates(plugin).candidates.values():
        case = beside_case(operation(item.op))
        wanted = item.recipe.storage == "bfloat16" and "cuda" in item.devices
        if case is not None and wanted and item.op in (arguments.op or OPS):
            tasks += [Task(candidate=item.name, arch=arch, case=case) for arch in archs]
    tasks.sort(key=lambda task: archs.index(task.arch))
    with Survey(
        jobs=jobs, plugin=plugin, limit_s=float(arguments.limit), cache=arguments.cache,
        memory_bytes=arguments.memory * GIGABYTE, first_setting=not arguments.all_settings, apart=True,
    ) as survey:  # fmt: skip
        probes = [replace(task, case=probe_of(task.case)) for task in tasks]
        without = {item.candidate for item in survey.examine(probes, probe=True) if item.status == "no_kernel"}
        tasks = [task for task in tasks if task.candidate not in without]
        found = list(survey.examine(tasks))
    places = {(task.candidate, task.arch): place for place, task in enumerate(tasks)}
    kept = [item for item in found if item.kernels or item.status not in {"ok", "no_kernel"}]
    yield from sorted(kept, key=lambda item: places[item.candidate, item.arch])


def _kernels(path: Path, archs: Sequence[str]) -> Iterator[Line]:
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
        found = [other_line(record) for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected = "lines that python -m tests.optimized.compile_flash4 printed"
        raise UsageError(f"--beside: got {path} ({type(error).__name__}: {error}), expected {expected}") from error
    yield from (line for line in found if line.arch in archs)


def _command(arguments: argparse.Namespace) -> str:
    """Returns the command that makes the same tables again; where they are put is left out."""
    repeated = {
        "--op": arguments.op,
        "--arch": arguments.arch,
        "--beside": [Path(each).name if each.endswith(_KERNELS) else each for each in arguments.beside],
    }
    words = [word for option, values in repeated.items() for value in values or () for word in (option, value)]
    return shlex.join(["attest", "codegen", *words, *(["--all-settings"] if arguments.all_settings else [])])


def _versions(archs: Sequence[str]) -> str:
    """Returns the compilers and the other projects with their versions."""
    assemblers = [f"ptxas {assembler_version(arch)} for {arch}" for arch in archs]
    projects = [f"{project} {_version(project) or 'not installed'}" for project in PROJECTS]
    return ", ".join([f"triton {metadata.version('triton')}", *assemblers, *projects,
                      f"Python {platform.python_version()}"])  # fmt: skip


def _version(project: str) -> str | None:
    try:
        return metadata.version(project)
    except metadata.PackageNotFoundError:
        return None
