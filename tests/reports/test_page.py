"""The page: it opens without a network, shows hostile text as text, and can be read by every reader."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.power_results import write_power
from harness.records import Comparison, Record, Relation, Timing, Verdict
from reports.page import FAILURES_SHOWN, ROWS_SHOWN
from reports.write import write_report
from tests.reports.samples import HOSTILE, certificate, failure, judgement, record, store, unsupported
from tests.reports.test_gate import results

MEGABYTE = 1_000_000


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """The elements of a page in order, each with the text that stands directly in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in {"meta", "wbr", "br", "img", "input", "link"}:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"the page closes <{tag}> which is not open"
        opened = self._open.pop()
        assert opened.tag == tag, f"the page closes <{tag}> where <{opened.tag}> is open"

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].text.append(data)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    @property
    def data(self) -> dict[str, Any]:
        """The plain data that the page's script reads."""
        (element,) = [e for e in self.all("script") if e.attributes.get("id") == "data"]
        return dict(json.loads("".join(element.text)))

    def column(self, table: str, number: int) -> list[Any]:
        """Returns the values of a column of a table."""
        packed = self.data["tables"][table]["values"][number]
        if isinstance(packed, list):
            return packed
        return [None if index < 0 else packed["d"][index] for index in packed["i"]]

    @property
    def text(self) -> str:
        hidden = {"script", "style"}
        return "".join("".join(element.text) for element in self.elements if element.tag not in hidden)


def records() -> Iterator[Record]:
    beside = Comparison(baseline="eager", ratio=0.5, low=0.25, high=0.75, verdict="FASTER")
    timing = Timing(phase="forward", median_us=8.0, low_us=7.0, high_us=9.0, repeats=30, threads=1, comparison=beside)
    yield record(timings=[timing], relations=[Relation(name="run twice", verdict=Verdict.PASS)])
    yield record(op="rope", candidate="eager", dtype="float32", tokens=128)
    yield record(op="rope", candidate="eager", dtype="float32", tokens=7)
    yield failure()
    yield unsupported(candidate="other")
    yield record(verdict=Verdict.ERROR, judgements=(), traceback="Traceback:\n  boom", case_id="crash")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = store(tmp_path_factory.mktemp("store"), list(records()), certificates=[certificate()])
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_nothing_on_the_page_is_requested_from_elsewhere(page: Page) -> None:
    requesting = {"img", "link", "iframe", "object", "embed", "audio", "video", "source", "base", "form"}
    assert not [element for element in page.elements if element.tag in requesting or "src" in element.attributes]
    links = {value for element in page.elements for name, value in element.attributes.items() if "href" in name}
    assert not [link for link in links if re.match(r"(?i)[a-z]+:|//", link)]
    own = re.sub(r"<script.*?</script>", "", page.source, flags=re.DOTALL)
    assert not re.search(r"@import|url\((?!#)", own)


def test_the_security_policy_allows_no_request_and_only_the_page_s_own_script(page: Page) -> None:
    policies = [e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes]
    assert [policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy for policy in policies] == [
        True
    ]
    executed = [e for e in page.all("script") if "type" not in e.attributes]
    assert len(executed) == page.source.count("'sha256-") == 3


def test_no_identifier_occurs_twice_and_every_inner_link_has_its_target(page: Page) -> None:
    identifiers = Counter(e.attributes["id"] for e in page.elements if "id" in e.attributes)
    assert max(identifiers.values()) == 1
    targets = {e.attributes["href"][1:] for e in page.elements if e.attributes.get("href", "").startswith("#")}
    assert targets <= set(identifiers)


def test_every_row_of_every_table_has_an_anchor_of_its_own(page: Page) -> None:
    tables = page.data["tables"]
    assert set(tables) == {
        "failures", "errors", "relations", "speed", "coverage", "costs", "certification", "unsupported"
    }  # fmt: skip
    for table in tables.values():
        assert len(set(table["anchors"])) == len(table["anchors"]) == len(table["values"][0]["i"]) > 0
    assert len(set(page.data["cases"]["anchors"])) == len(page.data["cases"]["anchors"]) == 6


def test_the_page_explains_why_a_case_failed_and_how_to_see_it_again(page: Page) -> None:
    told = json.dumps(page.data["tables"]["failures"]["details"])
    for shown in (
        'attest replay \'{\\"schema\\": 1',
        "Largest error at batch 0, token 3: got 0.512500, expected 0.500000, tolerance 0.0250, so 9.50 times",
        "Over all elements gain is 50.0 %, limit 0.200 %.",
        "Traceback:\\n  boom",
    ):
        assert shown in told


def test_the_page_shows_totals_environment_coverage_and_certification(page: Page) -> None:
    for shown in ("2 cases fail, on 1 of 3 kernels", "2.13.0", "false-alarm budget"):
        assert shown in page.text
    found = [page.column(*place) for place in (("unsupported", 4), ("certification", 6), ("speed", 8))]
    assert found == [["head_dim: got 40, expected 64"], ["WITHIN"], ["FASTER"]]


def test_without_a_script_the_page_has_its_headline_failures_and_commands(page: Page) -> None:
    part = re.search(r"<noscript>.*?</noscript>", page.source, flags=re.DOTALL)
    assert part is not None
    assert part[0].count("attest replay") == 2


def test_the_error_table_links_a_ratio_to_the_failure_behind_it(page: Page) -> None:
    table = page.data["tables"]["errors"]
    links = [None if index < 0 else table["links"]["d"][index] for index in table["links"]["i"]]
    assert [link for link in links if link] == [f"failures-{page.data['tables']['failures']['anchors'][1]}"]


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    bad = record(
        op=HOSTILE,
        candidate=HOSTILE,
        dtype=HOSTILE,
        case_id=HOSTILE,
        verdict=Verdict.FAIL_NUMERIC,
        reason=HOSTILE,
        judgements=[judgement(output=HOSTILE, verdict=Verdict.FAIL_NUMERIC)],
        unchecked=[HOSTILE],
        relations=[Relation(name=HOSTILE, verdict=Verdict.FAIL_RELATION, reason=HOSTILE)],
        traceback=HOSTILE,
        environment={HOSTILE: HOSTILE},
    )
    source = write_report(store(tmp_path, [bad, unsupported(reason=HOSTILE)])).read_text(encoding="utf-8")
    hostile = Page(source)
    assert len(hostile.all("script")) == 4
    assert not hostile.all("img")
    assert "<script>alert('x')</script>" in hostile.text
    assert "</script><script>alert('x')" in json.dumps(hostile.data)
    own = re.sub(r"<script>.*?</script>", "", source, flags=re.DOTALL)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", own)


def test_a_name_of_a_million_letters_is_cut(tmp_path: Path) -> None:
    long = record(candidate="n" * MEGABYTE, verdict=Verdict.FAIL_NUMERIC, reason="r" * MEGABYTE)
    path = write_report(store(tmp_path, [long]))
    assert path.stat().st_size < MEGABYTE
    assert "(1,000,000 characters)" in path.read_text(encoding="utf-8")


def test_rows_beyond_the_limit_are_counted_and_left_to_the_csv_file(tmp_path: Path) -> None:
    many = [failure(case_id=f"case {index}") for index in range(ROWS_SHOWN + 5)]
    shown = Page(write_report(store(tmp_path, many)).read_text(encoding="utf-8"))
    table = shown.data["tables"]["failures"]
    assert [len(table["details"]), len(table["anchors"])] == [FAILURES_SHOWN, ROWS_SHOWN]
    assert "5 more rows are only in failures.csv." in shown.text


def test_a_page_whose_tables_are_full_stays_below_three_megabytes(tmp_path: Path) -> None:
    beside = Comparison(baseline="eager", ratio=0.5, low=0.25, high=0.75, verdict="FASTER")
    timing = Timing(phase="forward", median_us=8.0, low_us=7.0, high_us=9.0, repeats=30, threads=1, comparison=beside)
    relation = Relation(name="run twice", verdict=Verdict.NO_POWER, reason="x" * 400)
    full = [record(candidate=f"kernel-{i}", relations=[relation], timings=[timing]) for i in range(ROWS_SHOWN)]
    broken = [
        record(verdict=Verdict.ERROR, case_id=str(i), reason="x" * 2000, judgements=(), traceback="y" * 9000)
        for i in range(FAILURES_SHOWN)
    ]
    assert write_report(store(tmp_path, [*full, *broken])).stat().st_size < 3 * MEGABYTE


def test_a_case_that_was_run_twice_has_two_rows_with_anchors_of_their_own(tmp_path: Path) -> None:
    twice = Page(write_report(store(tmp_path, [failure(), failure()])).read_text(encoding="utf-8"))
    first, second = twice.data["tables"]["failures"]["anchors"]
    assert second == f"{first}-2"


def test_an_anchor_stays_the_same_from_report_to_report(tmp_path: Path) -> None:
    pages = [
        Page(write_report(store(tmp_path / name, [failure(), *more])).read_text(encoding="utf-8"))
        for name, more in (("one", []), ("two", [record(verdict=Verdict.ERROR)]))
    ]
    first, second = ({(n, a) for n, t in each.data["tables"].items() for a in t["anchors"]} for each in pages)
    assert first <= second


def test_a_folder_of_power_alone_has_a_page_and_joins_that_of_a_run(tmp_path: Path) -> None:
    write_power(tmp_path / "power", results())
    alone = Page(write_report(tmp_path / "power").read_text(encoding="utf-8"))
    assert "2 of 3 seeded faults are caught, 0 false alarms" in alone.text
    joined = Page(
        write_report(store(tmp_path / "run", [record()]), power=tmp_path / "power").read_text(encoding="utf-8")
    )
    for each in (alone, joined):
        assert each.column("power", 4) == ["survivor", "caught", "caught"]
        assert each.column("rules", 0) == ["attest", "fla 0.005"]
    assert "errors" in joined.data["tables"]
