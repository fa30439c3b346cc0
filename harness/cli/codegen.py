"""``attest codegen``: what Triton kernels become on a GPU that is not there. Evidence about code, not about time."""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from harness.campaign import default_jobs
from harness.candidates import find_candidates, select
from harness.cases import case_from_text
from harness.cli.beside import execute_beside
from harness.cli.options import add_candidates, add_out, new_folder, positive, warn_broken
from harness.cli.progress import error_console, output_console
from harness.codegen.cases import codegen_cases, probe_of
from harness.codegen.gate import Violation, unusual, violations
from harness.codegen.offline import ARCHITECTURES, assembler_version, check_arch
from harness.codegen.results import CompiledKernel, Examination, write_results
from harness.codegen.survey import GIGABYTE, Survey, Task
from harness.environment import snapshot
from harness.errors import UsageError
from harness.ops import OPS, operation
from optimized.candidate import Candidate

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "codegen"
HELP = "Compile Triton kernels for a GPU that is not there and read their machine code: evidence about code, not time."
EXAMPLE = "attest codegen --op attention --arch sm_90 --quick"


_SIZES = (
    "op", "dtype", "batch", "tokens", "query_tokens", "key_tokens", "query_lengths", "key_lengths", "heads",
    "key_heads", "group", "hidden_size",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--op", action="append", help="only this operation; may be repeated (default: all)")
    add_candidates(parser)
    parser.add_argument(
        "--arch", action="append", metavar="sm_NN", help=f"may be repeated (default {' and '.join(ARCHITECTURES)})"
    )
    parser.add_argument("--case", metavar="CASE", help="this case as JSON, or the file that holds it, instead")
    parser.add_argument("--quick", action="store_true", help="fewer cases: widths 64 and 128, no float16")
    parser.add_argument("--jobs", type=positive, default=None, help="compiling processes (default: one per core)")
    parser.add_argument(
        "--limit", type=positive, default=600, metavar="S", help="seconds a case may take (default 600)"
    )
    parser.add_argument(
        "--memory", type=positive, default=6, metavar="GB", help="memory a compiling process may take (default 6)"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep what Triton compiled here for the next time")
    parser.add_argument(
        "--beside", action="append", metavar="FILE", help="compare with candidates of this plug-in; may be repeated"
    )
    parser.add_argument(
        "--all-settings", action="store_true", help="with --beside: every setting of autotuning, not the first alone"
    )
    parser.add_argument("--json", action="store_true", help="print each examination as one line of JSON")
    add_out(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    archs = [check_arch(arch) for arch in arguments.arch or ARCHITECTURES]
    if arguments.beside:
        return execute_beside(arguments, archs, arguments.jobs or default_jobs())
    candidates = _chosen(arguments)
    tasks = [task for arch in archs for task in _tasks(arguments, candidates, arch)]
    if not tasks:
        raise UsageError("codegen: got no case for these candidates, expected one that stores a dtype of the cases")
    folder = new_folder(arguments.out)
    console = output_console(stderr=arguments.json)
    survey = Survey(
        jobs=arguments.jobs or default_jobs(),
        plugin=arguments.plugin,
        limit_s=float(arguments.limit),
        cache=arguments.cache,
        memory_bytes=arguments.memory * GIGABYTE,
    )
    found: list[Examination] = []
    try:
        with survey:
            kept, left_out = _with_kernels(tasks, survey)
            for item in _shown(survey.examine(kept), len(kept), "compiling"):
                found.append(item)
                if arguments.json:
                    sys.stdout.write(json.dumps(asdict(item), default=str) + "\n")
    except KeyboardInterrupt:
        _write(folder, found, archs)
        sys.stderr.write(f"attest: interrupted; the examinations so far are in {folder}\n")
        return 130
    _write(folder, found, archs)
    if left_out:
        console.print(f"no Triton kernel, left out: {', '.join(left_out)}", markup=False)
    _print(found, console)
    broken = violations(found)
    for violation in broken:
        console.print(f"violation: {violation.sentence}", markup=False, soft_wrap=True)
        console.print(f"  {_reproduction(violation, arguments.plugin)}", markup=False, soft_wrap=True)
    console.print(f"{folder}/codegen.csv: evidence about code, not about time", markup=False, soft_wrap=True)
    return int(bool(broken))


def _write(folder: Path, found: Sequence[Examination], archs: Sequence[str]) -> None:
    assemblers = {arch: assembler_version(arch) for arch in archs}
    write_results(folder, found, {**snapshot("cpu", 1), "assemblers": assemblers})


def _chosen(arguments: argparse.Namespace) -> list[Candidate]:
    """Returns the candidates that are asked for; one that runs on the CPU alone has no kernel for a GPU."""
    for op in arguments.op or ():
        operation(op)
    found = find_candidates(arguments.plugin)
    warn_broken(found)
    ops = arguments.op or list(OPS)
    asked = select(found, op=ops[0] if len(ops) == 1 else None, names=arguments.candidate)
    return [item for item in asked if "cuda" in item.devices and item.op in ops]


def _tasks(arguments: argparse.Namespace, candidates: Sequence[Candidate], arch: str) -> list[Task]:
    """Returns the cases of the candidates on an architecture."""
    asked = None if arguments.case is None else case_from_text(arguments.case)
    tasks = []
    for item in candidates:
        if asked is None:
            cases = codegen_cases(operation(item.op), item.recipe.storage, arch=arch, quick=arguments.quick)
        else:
            cases = [asked] if (item.op, item.recipe.storage) == (asked.op, asked.dtype) else []
        tasks += [Task(candidate=item.name, arch=arch, case=case) for case in cases]
    return tasks


def _with_kernels(tasks: Sequence[Task], survey: Survey) -> tuple[list[Task], list[str]]:
    """Returns the cases of candidates that launch a Triton kernel, and the names of the others."""
    firsts: dict[str, Task] = {}
    for task in tasks:
        firsts.setdefault(task.candidate, replace(task, case=probe_of(task.case)))
    probed = _shown(survey.examine(list(firsts.values()), probe=True), len(firsts), "looking for kernels")
    without = {item.candidate for item in probed if item.status == "no_kernel"}
    return [task for task in tasks if task.candidate not in without], [name for name in firsts if name in without]


def _shown(found: Iterator[Examination], total: int, label: str) -> Iterator[Examination]:
    """Yields what is found, with a progress bar on stderr."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=error_console()) as bar:
        task = bar.add_task(label, total=total)
        for item in found:
            yield item
            bar.update(task, advance=1)


def _print(found: Sequence[Examination], console: Console) -> None:
    """Prints, per candidate, kernel and architecture, the largest needs and the case of the worst."""
    groups: dict[tuple[str, str, str], list[tuple[CompiledKernel, Examination]]] = {}
    for item in sorted(found, key=lambda each: (each.op, each.candidate, each.arch)):
        for kernel in item.kernels:
            groups.setdefault((item.candidate, kernel.kernel, item.arch), []).append((kernel, item))
    table = Table(box=None, header_style="bold")
    table.add_column("candidate and kernel", no_wrap=True)
    table.add_column("arch", no_wrap=True)
    for name in ("codes", "reg", "stack", "LDL", "STL", "shared", "warps", "products", "128 bit", "code"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worst case", overflow="fold")
    shown = None
    for (candidate, name, arch), each in groups.items():
        if candidate != shown:
            table.add_row(candidate, style="bold")
            shown = candidate
        worst, item = max(each, key=lambda pair: _need(pair[0]))
        codes = len({kernel.key for kernel, _ in each})
        table.add_row(f"  {name}", arch, str(codes), *_numbers(worst), _label(item.case))
    console.print(table)
    declined = {(item.candidate, item.sentence): item for item in found if item.status == "unsupported"}
    for (candidate, sentence), item in declined.items():
        console.print(f"declined by {candidate}: {sentence}: {_label(item.case)}", markup=False, soft_wrap=True)


def _numbers(kernel: CompiledKernel) -> list[str]:
    code = kernel.code
    numbers = (
        code.registers, code.stack_bytes, code.local_loads, code.local_stores, kernel.shared_bytes, kernel.num_warps,
        _products(kernel), code.wide_accesses, code.instructions,
    )  # fmt: skip
    return [str(number) for number in numbers]


def _need(kernel: CompiledKernel) -> tuple[int, int, int]:
    code = kernel.code
    return code.stack_bytes + code.local_loads + code.local_stores, kernel.shared_bytes, code.registers


def _products(kernel: CompiledKernel) -> str:
    """Returns which matrix instructions there are."""
    code = kernel.code
    counts = {
        "HGMMA": code.warp_group_products, "UTCMMA": code.tensor_memory_products, "HMMA": code.warp_products,
    }  # fmt: skip
    return " ".join(f"{count} {name}" for name, count in counts.items() if count) or (
        "FMA" if kernel.matrix_product else ""
    )


def _label(case: Mapping[str, Any]) -> str:
    """Returns what is unusual in a case, its sizes aside; all of it is in the table on disk."""
    return " ".join(f"{name}={value}" for name, value in unusual(case).items() if name not in _SIZES)


def _reproduction(item: Violation, plugin: str | None) -> str:
    """Returns the one-line command that compiles a case again."""
    line = json.dumps(item.case, separators=(",", ":"))
    extra = f" --plugin {shlex.quote(plugin)}" if plugin else ""
    return f"attest codegen --candidate {item.candidate} --arch {item.arch} --case {shlex.quote(line)}{extra}"
