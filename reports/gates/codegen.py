"""What ``attest codegen`` counted, beside a baseline: spills, launches, bytes, lost matrix instructions, lost code.

Counts of two compilers are not compared, nor are those of two versions of another project: what is compared is pinned.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from reports.gates.trip import Trip

__all__ = [
    "CODEGEN",
    "codegen_section",
    "compilers_section",
    "lost_codegen",
    "other_compilers",
    "read_codegen",
    "same_projects",
    "told_of_codegen",
]

CODEGEN = "codegen.json"
_FAILURES = ("error", "crash", "timeout")


def read_codegen(folder: Path) -> tuple[Sequence[Mapping[str, Any]], dict[str, Any]]:
    """Returns the examinations that ``attest codegen`` left in a folder, and the section ``compilers``.

    Raises:
        UsageError: they cannot be read.
    """
    path = folder / CODEGEN
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = data["examinations"]
        codegen_section(found)  # whatever is missing is said now
        cases = [item["case"] for item in found]
        compilers = compilers_section(data["environment"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"codegen: {path} is no result of attest codegen ({type(error).__name__}: {error})") from error
    return list(found) if cases else [], compilers


def compilers_section(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section ``compilers``: versions of what made the code, and of the projects whose code it is."""
    assemblers = {f"ptxas {arch}": version for arch, version in environment.get("assemblers", {}).items()}
    made = {"triton": environment.get("versions", {}).get("triton"), **assemblers}
    return {"made": made, "projects": dict(environment.get("projects", {}))}


def other_compilers(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Trip]:
    """Returns a trip where results and baseline come of two compilers; an architecture that is not there is none."""
    changed = [
        f"{name} was {was}, is {now['made'][name]}"
        for name, was in before["made"].items()
        if name in now["made"] and now["made"][name] != was
    ]
    if not changed:
        return []
    sentence = f"codegen is not compared, {'; '.join(changed)}: expected the compilers of the baseline"
    return [
        Trip(sentence=sentence, command="attest gate DIR --baseline FILE --update, once the new code was looked at")
    ]


def same_projects(
    section: Mapping[str, Any], now: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Returns what of a section can be compared, and a sentence for every project whose version is another one.

    Args:
        section: ``codegen``.
        now: ``compilers`` of the results.
        before: the same of the baseline.
    """
    projects = {**before["projects"], **now["projects"]}
    other = [name for name in projects if now["projects"].get(name) != before["projects"].get(name)]
    words = tuple(f"{name.partition('-')[0]}-" for name in other)
    told = [
        f"{name}: code not compared, it was {before['projects'].get(name) or 'not installed'}, "
        f"is {now['projects'].get(name) or 'not installed'}"
        for name in other
    ]
    return {name: needs for name, needs in section.items() if not name.startswith(words)}, told


def codegen_section(examinations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the section ``codegen``: per candidate, kernel and architecture the largest needs over all cases."""
    section: dict[str, dict[str, Any]] = {}
    for item in examinations:
        for kernel in item["kernels"]:
            name = f"{item['candidate']} {kernel['kernel']} {item['arch']}"
            needs = {**_needs(kernel), "cases": 1}
            known = section.get(name)
            section[name] = needs if known is None else _joined(known, needs)
        if item["status"] in _FAILURES:
            name = f"{item['candidate']} failures {item['arch']}"
            section[name] = {"failures": section.get(name, {}).get("failures", 0) + 1}
    return {name: section[name] for name in sorted(section)}


_LARGEST = ("spills", "shared_bytes", "registers", "launches", "bytes")


def _needs(kernel: Mapping[str, Any]) -> dict[str, int]:
    code = kernel["code"]
    return {
        "spills": code["stack_bytes"] + code["local_loads"] + code["local_stores"],
        "shared_bytes": kernel["shared_bytes"],
        "registers": code["registers"],
        "products": int(code["warp_group_products"] + code["tensor_memory_products"]),
        "launches": kernel["launches"],
        "bytes": kernel["tensor_bytes"],
    }


def _joined(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    joined = {name: max(one[name], other[name]) for name in _LARGEST}
    return {**joined, "products": min(one["products"], other["products"]), "cases": one["cases"] + other["cases"]}


_WORSE = {
    "spills": "spills more: stack bytes, LDL and STL",
    "failures": "fails to compile on more cases:",
    "launches": "is launched more often in a call:",
    "bytes": "is given more bytes:",
}
_SINCE = ("launches", "bytes")
"""What older baselines do not hold."""


def lost_codegen(
    now: Mapping[str, Any], before: Mapping[str, Any], examinations: Sequence[Mapping[str, Any]]
) -> list[Trip]:
    """Returns what got worse: spills, launches, bytes, matrix instructions or kernels that are gone.

    Registers, shared memory and the length of code are told and trip nothing: they are a means.

    Args:
        now: the section of the results.
        before: the section of the baseline.
        examinations: of the results.
    """
    trips = []
    for name in dict.fromkeys((*before, *now)):
        was, is_now = before.get(name), now.get(name)
        if is_now is None:
            if "failures" not in (was or {}):
                trips.append(
                    _trip(name, f"{name} is gone: was compiled for {(was or {})['cases']} cases", examinations)
                )
            continue
        for field, words in _WORSE.items():
            old, new = (was or {}).get(field, 0), is_now.get(field, 0)
            if new > old and (field not in _SINCE or field in (was or {})):
                trips.append(_trip(name, f"{name} {words} was {old}, is {new}", examinations, field))
        if (was or {}).get("products") and not is_now.get("products"):
            sentence = f"{name} lost its matrix instructions of warp groups: was {(was or {})['products']}, is 0"
            trips.append(_trip(name, sentence, examinations, "products"))
    return trips


def _trip(name: str, sentence: str, examinations: Sequence[Mapping[str, Any]], field: str = "") -> Trip:
    candidate, kernel, arch = name.split(" ")
    own = [item for item in examinations if item["candidate"] == candidate and item["arch"] == arch]
    case = next((item["case"] for item in own if _shows(item, kernel, field)), None)
    shown = "" if case is None else f" --case {shlex.quote(json.dumps(case, separators=(',', ':')))}"
    return Trip(sentence=sentence, command=f"attest codegen --candidate {candidate} --arch {arch}{shown}")


def _shows(item: Mapping[str, Any], kernel: str, field: str) -> bool:
    if field == "failures":
        return item["status"] in _FAILURES
    needs = [_needs(each) for each in item["kernels"] if each["kernel"] == kernel]
    return any(not each["products"] if field == "products" else each.get(field, 0) > 0 for each in needs)


def told_of_codegen(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for everything that differs, good or bad."""
    sentences = []
    for name in dict.fromkeys((*before, *now)):
        was, is_now = before.get(name), now.get(name)
        if was is None or is_now is None:
            sentences.append(f"{name} is {'new' if was is None else 'gone'}")
            continue
        changes = [f"{field} was {was[field]}, is {is_now[field]}" for field in was if was[field] != is_now.get(field)]
        if changes:
            sentences.append(f"{name}: {'; '.join(changes)}")
    return sentences
