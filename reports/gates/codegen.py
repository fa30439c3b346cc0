"""What ``attest codegen`` counted, beside a baseline: spills, lost matrix instructions, code that is gone."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from reports.gates.trip import Trip

__all__ = ["CODEGEN", "codegen_section", "lost_codegen", "read_codegen", "told_of_codegen"]

CODEGEN = "codegen.json"
_FAILURES = ("error", "crash", "timeout")


def read_codegen(folder: Path) -> Sequence[Mapping[str, Any]]:
    """Returns the examinations that ``attest codegen`` left in a folder.

    Raises:
        UsageError: they cannot be read.
    """
    path = folder / CODEGEN
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["examinations"]
        codegen_section(found)  # whatever is missing is said now
        cases = [item["case"] for item in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"codegen: {path} is no result of attest codegen ({type(error).__name__}: {error})") from error
    return list(found) if cases else []


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


def _needs(kernel: Mapping[str, Any]) -> dict[str, int]:
    code = kernel["code"]
    return {
        "spills": code["stack_bytes"] + code["local_loads"] + code["local_stores"],
        "shared_bytes": kernel["shared_bytes"],
        "registers": code["registers"],
        "products": int(code["warp_group_products"] + code["tensor_memory_products"]),
    }


def _joined(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    joined = {name: max(one[name], other[name]) for name in ("spills", "shared_bytes", "registers")}
    return {**joined, "products": min(one["products"], other["products"]), "cases": one["cases"] + other["cases"]}


_WORSE = {
    "spills": "spills more: stack bytes, LDL and STL",
    "failures": "fails to compile on more cases:",
}


def lost_codegen(
    now: Mapping[str, Any], before: Mapping[str, Any], examinations: Sequence[Mapping[str, Any]]
) -> list[Trip]:
    """Returns what got worse: spills, matrix instructions of warp groups that are gone, kernels that are gone.

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
            if new > old:
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
    return any(each["spills"] > 0 if field == "spills" else not each["products"] for each in needs) and bool(field)


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
