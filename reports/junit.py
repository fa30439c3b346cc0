"""The records as JUnit XML, which continuous integration reads: a test case per record."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from harness.codec import to_json
from harness.records import Record, Verdict
from reports.explain import dtype_of, explain, reproduction
from reports.text import plain

__all__ = ["junit_text"]

SENTENCE, LISTING = 1_000, 20_000


def junit_text(records: Sequence[Record]) -> str:
    """Returns the records as one JUnit test suite.

    A failing verdict is a ``failure``, ERROR and TIMEOUT are an ``error``; UNSUPPORTED, NO_POWER and AMBIGUOUS are
    ``skipped`` with their reason, so that the suite fails exactly when a command would exit with 1.
    """
    tags = [_tag(record.verdict) for record in records]
    seconds = [sum(to_json(record.phases).values()) for record in records]
    counts = {"tests": len(records), "failures": tags.count("failure"), "errors": tags.count("error")}
    numbers = {name: str(count) for name, count in {**counts, "skipped": tags.count("skipped")}.items()}
    totals = {"name": "attest", **numbers, "time": f"{sum(seconds):.6f}"}
    suites = ET.Element("testsuites", totals)
    suite = ET.SubElement(suites, "testsuite", totals)
    for record, tag, spent in zip(records, tags, seconds, strict=True):
        name = f"{dtype_of(record)} {record.case_id}"
        subject = f"{plain(record.op, limit=SENTENCE)}.{plain(record.candidate, limit=SENTENCE)}"
        case = {"classname": subject, "name": plain(name, limit=SENTENCE), "time": f"{spent:.6f}"}
        element = ET.SubElement(suite, "testcase", case)
        if tag:
            message = plain(record.reason, limit=SENTENCE)
            outcome = ET.SubElement(element, tag, {"type": record.verdict.value, "message": message})
            outcome.text = plain(_details(record), limit=LISTING, keep_lines=True)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _tag(verdict: Verdict) -> str:
    if verdict is Verdict.PASS:
        return ""
    if verdict.is_failure:
        return "error" if verdict in {Verdict.ERROR, Verdict.TIMEOUT} else "failure"
    return "skipped"


def _details(record: Record) -> str:
    return "\n".join(part for part in (*explain(record), reproduction(record), record.traceback) if part)
