"""The page in headless Chromium: no request, no complaint; it sorts, filters and follows links; pictures are kept."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.power_results import write_power
from harness.records import Comparison, Timing, Verdict
from reports.explain import reproduction
from reports.write import write_report
from tests.benchmarks.report_cost import many_records
from tests.reports.browser import Browser
from tests.reports.samples import HOSTILE, failure, record, store, unsupported, write_benchmark
from tests.reports.test_gate import results

INTERACTIVE_S = 2.0
"""Longest time until the page of 5,000 records can be used."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: the page is checked by the parser only")
    with Browser(path, tmp_path_factory.mktemp("profile")) as opened:
        opened.look()
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    beside = Comparison(baseline="eager", ratio=0.5, low=0.25, high=0.75, verdict="FASTER")
    timings = [
        Timing(
            phase=phase, median_us=8.0 * n, low_us=7.0 * n, high_us=9.0 * n, repeats=30, threads=1, comparison=beside,
            floor_us=2.0 * n,
        )
        for n, phase in enumerate(("forward", "forward+backward"), start=1)
    ]  # fmt: skip
    failures = [failure(case_id=f"case{ratio}", max_ratio=ratio) for ratio in (2.0, 300.0, 10.0)]
    others = [
        record(op="rope", candidate="it's eager", tokens=2**n, case_id=f"p{n}", timings=timings) for n in range(6)
    ]
    folder = tmp_path_factory.mktemp("run")
    write_power(folder / "power", results())
    return write_report(store(folder, [*failures, *others, unsupported()]), power=folder / "power")


def rows(browser: Browser, table: str, column: int) -> list[str]:
    found = browser.value(
        f"[...document.querySelectorAll('#table-{table} tbody tr')].map(r => r.cells[{column}]?.innerText)"
    )
    return [str(text).strip() for text in found]


def test_the_page_loads_without_a_request_or_a_complaint(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.value("document.getElementById('environment').scrollIntoView()")
    assert (browser.requests, browser.complaints) == ([page.as_uri()], [])


def test_a_complaint_of_a_page_is_heard(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x'><script>document.documentElement.dataset.ready=1;x.y</script>")
    browser.open(bad.as_uri())
    assert browser.complaints
    assert len(browser.requests) == 2


def test_a_click_on_a_header_sorts_by_number_and_says_so(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    button = "document.querySelectorAll('#table-failures thead button')[5]"
    browser.value(f"{button}.click()")
    assert rows(browser, "failures", 5) == ["300", "10.0", "2.00"]
    assert browser.value(f"{button}.closest('th').getAttribute('aria-sort')") == "descending"
    browser.value(f"{button}.focus()")
    browser.press("Enter")
    assert rows(browser, "failures", 5) == ["2.00", "10.0", "300"]


def test_the_filter_keeps_the_rows_that_have_every_word(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.value(
        "(() => { const box = document.querySelector('#errors input'); box.value = 'ROPE pass';"
        "box.dispatchEvent(new Event('input')); })()"
    )
    assert rows(browser, "errors", 1) == ["it's eager"]
    assert browser.value("document.querySelector('#errors output').textContent") == "1 of 2 rows"


def test_a_link_to_a_failure_opens_and_marks_its_row(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    anchor = browser.value("document.querySelectorAll('#table-failures tbody tr')[1].id")
    browser.open(f"{page.as_uri()}#{anchor}")
    assert browser.value("[...document.querySelectorAll('tr.target')].map(r => r.id)") == [anchor]
    assert "attest replay" in browser.value(f"document.getElementById('{anchor}-details').innerText")


def test_a_link_into_a_folded_part_opens_it_and_gives_the_command_that_python_gives(
    browser: Browser, page: Path
) -> None:
    browser.open(page.as_uri())
    assert browser.value("document.querySelector('#cases details').open") is False
    anchor = browser.value("`cases-${JSON.parse(document.getElementById('data').textContent).cases.anchors[3]}`")
    browser.value(f"void (location.hash = '{anchor}')")
    browser.value("new Promise(done => setTimeout(done, 200))")
    assert browser.value("document.querySelector('#cases details').open") is True
    command = browser.value(f"document.querySelector('#{anchor}-details pre').textContent")
    assert command == reproduction(record(op="rope", candidate="it's eager", tokens=1))


def test_plots_are_drawn_and_can_be_read_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.value("document.getElementById('plots').scrollIntoView()")
    browser.value("new Promise(done => setTimeout(done, 300))")
    assert browser.value("document.querySelectorAll('#plots .stage svg').length") == 3
    browser.value("document.querySelector('.growth .stage').focus()")
    browser.press("ArrowRight")
    assert "of the tolerance" in browser.value("document.getElementById('said').textContent")
    assert "11 declined" not in browser.value("document.querySelector('.map').innerText")
    assert "3 fail, 1 declined of 4" in browser.value("document.querySelector('.map').innerText")


def test_every_time_has_its_point_and_its_roofline(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.value("document.querySelector('figure.speed').scrollIntoView()")
    browser.value("new Promise(done => setTimeout(done, 300))")
    marks = "[...document.querySelectorAll('figure.speed svg > [aria-label]')]"
    drawn = browser.value(f"{marks}.map(mark => [mark.getAttribute('aria-label'), mark.childElementCount])")
    assert sum(count for label, count in drawn if label == "dot") == 12
    assert ["rule", 12] in drawn


def test_hostile_text_stays_text_in_the_browser(browser: Browser, tmp_path: Path) -> None:
    bad = record(op=HOSTILE, candidate=HOSTILE, dtype=HOSTILE, verdict=Verdict.ERROR, reason=HOSTILE, traceback=HOSTILE)
    path = write_report(store(tmp_path, [bad, record()]))
    browser.open(path.as_uri())
    browser.value("document.querySelector('#table-failures .expander').click()")
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert "onerror=alert(1)" in browser.value("document.getElementById('failures').innerText")
    assert (browser.requests, browser.complaints) == ([path.as_uri()], [])


def test_hostile_text_stays_text_in_the_opened_rows_of_all_cases(browser: Browser, tmp_path: Path) -> None:
    """Markup, scripts, control characters and a megabyte, in names, fields and values of the case itself."""
    odd = dataclasses.replace(
        record(candidate=HOSTILE, case_id=HOSTILE),
        case={"op": HOSTILE, HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}], "seed": 7},
    )
    long = dataclasses.replace(
        record(candidate="n" * 1_000_000, verdict=Verdict.ERROR, reason="r" * 1_000_000),
        case={"op": "o" * 1_000_000, "f" * 1_000_000: "v" * 1_000_000, "seed": 7},
    )
    path = write_report(store(tmp_path, [odd, long, record()]))
    assert path.stat().st_size < 1_000_000
    browser.look(width=390)
    browser.open(path.as_uri())
    browser.value("void (location.hash = 'cases')")
    browser.value("new Promise(done => setTimeout(done, 200))")
    browser.value("document.querySelectorAll('#table-cases .expander').forEach(each => each.click())")
    opened = browser.value("[...document.querySelectorAll('#table-cases .why')].map(each => each.innerText)")
    assert len(opened) == 3
    assert all("attest replay" in text for text in opened)
    shown = browser.value("document.getElementById('cases').innerText")
    assert "<script>alert('x')</script><img src=http://evil.example onerror=alert(1)>" in shown
    assert r"\x00\x1b[31m\u202e" in shown
    assert [sign for sign in shown if not sign.isprintable() and sign not in "\n\t"] == []
    assert browser.value("document.querySelectorAll('img, #cases script').length") == 0
    assert browser.value("document.documentElement.scrollWidth") == 390
    assert (browser.requests, browser.complaints) == ([path.as_uri()], [])
    browser.look()


@pytest.mark.filterwarnings("ignore::harness.store.StoreWarning")
def test_times_of_a_benchmark_alone_are_a_page_with_their_plot(browser: Browser, tmp_path: Path) -> None:
    write_benchmark(tmp_path / "attention")
    path = write_report(tmp_path)
    browser.open(path.as_uri())
    browser.value("document.getElementById('plots').scrollIntoView()")
    browser.value("new Promise(done => setTimeout(done, 300))")
    assert browser.value("[...document.querySelectorAll('#plots h3')].map(each => each.innerText)") == [
        "Speed against size"
    ]
    assert browser.value("document.querySelectorAll('#plots .stage svg').length") == 1
    assert rows(browser, "speed", 1) == ["triton", "triton"]
    assert (browser.requests, browser.complaints) == ([path.as_uri()], [])


def test_a_page_of_five_thousand_records_can_be_used_within_two_seconds(browser: Browser, tmp_path: Path) -> None:
    """Seconds of the page's own thread: on a machine that does nothing else they are those on the wall."""
    path = write_report(store(tmp_path, many_records(5_000)))
    browser.ask("Performance.enable", timeDomain="threadTicks")
    browser.open(path.as_uri())
    found = {item["name"]: item["value"] for item in browser.ask("Performance.getMetrics")["metrics"]}
    browser.ask("Performance.disable")
    wall = browser.value("Number(document.documentElement.dataset.ready)") / 1e3
    print(f"ready after {wall:.2f} s on the wall, {found['TaskDuration']:.2f} s of work")  # noqa: T201 - a figure
    assert 0 < found["TaskDuration"] <= INTERACTIVE_S
    assert browser.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_no_wider_than_the_window(
    browser: Browser, page: Path, tmp_path_factory: pytest.TempPathFactory, width: int, theme: str
) -> None:
    browser.look(width=width, height=1600, theme=theme)
    browser.open(page.as_uri())
    browser.value("new Promise(done => setTimeout(done, 300))")
    picture = tmp_path_factory.getbasetemp() / f"report-{width}-{theme}.png"
    browser.picture(picture)
    print(f"kept {picture}")  # noqa: T201 - a person looks at it
    assert browser.value("document.documentElement.scrollWidth") == width
