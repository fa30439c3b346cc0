"""The page of the peers, from the records of the campaign and our readings of what failed."""

from collections.abc import Iterator, Mapping, Sequence

from harness.records import Record, Verdict
from tests.peers.findings import Finding, Summary, findings, summaries
from tests.peers.projects import PROJECTS, project_of
from tests.peers.projects import command as line_of
from tests.peers.readings import Reading, reading_of

__all__ = ["page"]

_HEAD = """# Peers on trial

What the testbench says about code that people already use, each with a recipe that its authors would state, on a CPU.
`{command}` writes this page from the records in its folder, which may come of
several calls: every number below is in them,
and every failure was run again by its printed line. Only what follows "our reading" is ours, and it may be wrong. The
lines are for the root of a checkout, in an environment that holds the peers, such as that of `nox -s peers`.

A **bug** gives results that nobody would defend. **Another convention** is right by its own definition and wrong by
[ours](layers.md). A **looser recipe** rounds more than a reader would expect: no error of the formula, but less
precision than the format allows. A case is *declined* where a peer says that it does not compute it.
"""


def page(records: Sequence[Record], *, command: str, versions: Mapping[str, str]) -> str:
    """Returns the page.

    Args:
        records: of the campaign, those of shrunk cases included.
        command: that made them.
        versions: of the packages that were judged, as the run noted them.
    """
    found = findings(records)
    parts = [_HEAD.format(command=command), *_overview(records, versions), *_ranked(found)]
    for project in PROJECTS:
        parts += _project(project, records, [each for each in found if project_of(each.candidate) == project])
    return "\n".join(parts).rstrip() + "\n"


def _overview(records: Sequence[Record], versions: Mapping[str, str]) -> Iterator[str]:
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"Judged with {shown}.\n"
    yield "| project | candidates | judged cases | passed | failed | declined |\n|---|---|---|---|---|---|"
    for project in PROJECTS:
        own = [each for each in summaries(records) if project_of(each.candidate) == project]
        passed = sum(each.verdicts[Verdict.PASS] for each in own)
        declined = sum(each.verdicts[Verdict.UNSUPPORTED] for each in own)
        numbers = (len(own), sum(each.judged for each in own), passed, sum(each.failed for each in own), declined)
        yield f"| [{PROJECTS[project].title}](#{_anchor(project)}) | " + " | ".join(map(str, numbers)) + " |"
    yield ""


def _anchor(project: str) -> str:
    return PROJECTS[project].title.lower().replace(" ", "-")


def _ranked(found: Sequence[Finding]) -> Iterator[str]:
    """Yields our readings, those first that a user should care about most."""
    by_reading: dict[Reading, list[Finding]] = {}
    for finding in found:
        reading = reading_of(finding.candidate, finding.output)
        if reading is not None:
            by_reading.setdefault(reading, []).append(finding)
    yield "## Findings, by how much a user should care\n"
    for number, reading in enumerate(sorted(by_reading, key=lambda each: each.care), start=1):
        each = by_reading[reading]
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(item.candidate for item in each))
        yield f"{number}. **{reading.kind}** ({names}): {reading.why}"
    unread = [finding for finding in found if reading_of(finding.candidate, finding.output) is None]
    if unread:
        yield f"\nWithout a reading: {len(unread)} findings, which say so below."
    yield ""


def _project(project: str, records: Sequence[Record], found: Sequence[Finding]) -> Iterator[str]:
    own = [each for each in summaries(records) if project_of(each.candidate) == project]
    yield f"## {PROJECTS[project].title}\n\nRuns as: {PROJECTS[project].runs}.\n"
    yield "| candidate | operation | passed | failed | other | worst ratio that passed | not given | declines |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from (_row(each) for each in own)
    yield ""
    for finding in found:
        yield from _finding(finding)


def _row(summary: Summary) -> str:
    passed, declined = summary.verdicts[Verdict.PASS], summary.verdicts[Verdict.UNSUPPORTED]
    other = summary.judged - passed - summary.failed
    worst = f"{summary.worst:.2f}" if passed else ""
    sentences = "; ".join(summary.declined) if declined else ""
    numbers = (passed, summary.failed, other, worst)
    cells = (f"`{summary.candidate}`", summary.op, *numbers, ", ".join(summary.unchecked), sentences)
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _finding(finding: Finding) -> Iterator[str]:
    reading = reading_of(finding.candidate, finding.output)
    record = finding.record
    what = f"{record.verdict.value}, {finding.failed} cases"
    yield f"**`{finding.candidate}`, {finding.output}** ({what}): {finding.reason}"
    yield f"\nOur reading: {reading.kind}. {reading.why}" if reading else "\nOur reading: none yet."
    yield f"\n```sh\n{line_of(record)}\n```\n"
