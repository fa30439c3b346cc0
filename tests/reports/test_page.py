"""The page: it opens without a network, shows hostile text as text, and can be read by every reader."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.records import Comparison, Record, Relation, Timing, Verdict
from reports.page import FAILURES_SHOWN, ROWS_SHOWN
from reports.write import write_report
from tests.reports.samples import HOSTILE, certificate, failure, judgement, record, store, unsupported

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
    assert not re.search(r"@import|url\((?!#)", page.source)


def test_the_security_policy_allows_no_request_and_only_the_page_s_own_script(page: Page) -> None:
    policies = [e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes]
    assert [policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy for policy in policies] == [
        True
    ]
    assert len(page.all("script")) == 1


def test_no_identifier_occurs_twice_and_every_inner_link_has_its_target(page: Page) -> None:
    identifiers = Counter(e.attributes["id"] for e in page.elements if "id" in e.attributes)
    assert max(identifiers.values()) == 1
    targets = {e.attributes["href"][1:] for e in page.elements if e.attributes.get("href", "").startswith("#")}
    assert targets <= set(identifiers)


def test_every_row_of_every_data_table_can_be_linked_to(page: Page) -> None:
    anchors = {e.attributes["href"] for e in page.all("a") if e.attributes.get("class") == "link"}
    rows = [e.attributes["id"] for e in page.all("tr") if "id" in e.attributes]
    assert {f"#{row}" for row in rows} == anchors
    assert {row.split("-")[0] for row in rows} == {
        "failures", "errors", "relations", "speed", "coverage", "costs", "certification"
    }  # fmt: skip


def test_tables_have_captions_scoped_headers_and_sort_buttons(page: Page) -> None:
    assert len(page.all("table")) == len(page.all("caption"))
    assert {e.attributes.get("scope") for e in page.all("th")} == {"col", "row"}
    sortable = [e for e in page.all("th") if "aria-sort" in e.attributes]
    assert len([e for e in page.all("button") if e.attributes["type"] == "button"]) == len(sortable)


def test_the_page_shows_why_a_case_failed_and_how_to_see_it_again(page: Page) -> None:
    for shown in (
        'attest replay \'{"schema": 1',
        "Largest error at batch 0, token 3: got 0.512500, expected 0.500000, tolerance 0.0250, so 9.50 times",
        "Over all elements gain is 50.0 %, limit 0.200 %.",
        "Traceback:\n  boom",
    ):
        assert shown in page.text


def test_the_page_shows_totals_environment_coverage_and_certification(page: Page) -> None:
    for shown in ("2 cases fail, on 1 of 3 kernels", "2.13.0", "head_dim: got 40, expected 64 (1)", "within", "FASTER"):
        assert shown in page.text


def test_a_verdict_is_said_in_words_and_not_by_colour_alone(page: Page) -> None:
    badges = [e for e in page.all("span") if e.attributes.get("class", "").startswith("badge")]
    assert badges
    assert all("".join(badge.text).strip() for badge in badges)


def test_plots_are_drawn_in_the_colours_of_the_page_and_described_in_words(page: Page) -> None:
    figures = [e for e in page.all("div") if e.attributes.get("role") == "img" and "operation" not in e.attributes]
    assert len(page.all("svg")) == 3
    assert all(figure.attributes["aria-label"] for figure in figures)
    drawings = re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{6}\b", "".join(drawings).replace("url(#", ""))


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
    assert len(hostile.all("script")) == 1
    assert not hostile.all("img")
    assert "<script>alert('x')</script>" in hostile.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", source)


def test_a_name_of_a_million_letters_is_cut(tmp_path: Path) -> None:
    long = record(candidate="n" * MEGABYTE, verdict=Verdict.FAIL_NUMERIC, reason="r" * MEGABYTE)
    path = write_report(store(tmp_path, [long]))
    assert path.stat().st_size < MEGABYTE / 4
    assert "(1,000,000 characters)" in path.read_text(encoding="utf-8")


def test_rows_beyond_the_limit_are_counted_and_left_to_the_csv_file(tmp_path: Path) -> None:
    many = [failure(case_id=f"case {index}") for index in range(FAILURES_SHOWN + 5)]
    shown = Page(write_report(store(tmp_path, many)).read_text(encoding="utf-8"))
    assert len([e for e in shown.all("details") if e.attributes.get("class") == "why"]) == FAILURES_SHOWN
    assert "5 more rows are only there." in shown.text


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
    rows = [e.attributes["id"] for e in twice.all("tr") if e.attributes.get("id", "").startswith("failures-")]
    assert [rows[1]] == [f"{rows[0]}-2"]


def test_an_anchor_stays_the_same_from_report_to_report(tmp_path: Path) -> None:
    pages = [
        Page(write_report(store(tmp_path / name, [failure(), *more])).read_text(encoding="utf-8"))
        for name, more in (("one", []), ("two", [record(verdict=Verdict.ERROR)]))
    ]
    first, second = ({e.attributes["id"] for e in each.all("tr") if "id" in e.attributes} for each in pages)
    assert first <= second
