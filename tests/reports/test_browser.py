"""The page in a browser: links into tables, sorting and filtering work, and the policy lets its script run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.write import write_report
from tests.reports.samples import failure, record, store

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=3000",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: the page is checked by the parser only")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [failure(case_id=f"case{ratio}", max_ratio=ratio) for ratio in (2.0, 300.0, 10.0)]
    return write_report(store(tmp_path_factory.mktemp("store"), [*records, record(op="rope", candidate="eager")]))


def opened(chromium: str, address: str, profile: Path) -> str:
    """Returns the document as it stands after its scripts have run."""
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def after(page: Path, actions: str) -> str:
    """Writes the page with actions appended and without the policy that would refuse them; returns its address."""
    source = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text(encoding="utf-8"))
    changed = page.with_name("changed.html")
    changed.write_text(source.replace("</body>", f"<script>{actions}</script></body>"), encoding="utf-8")
    return changed.as_uri()


def failure_rows(document: str) -> list[str]:
    return re.findall(r'<tr id="failures-[^>]*>.*?</tr>', document, flags=re.DOTALL)


def test_a_link_to_a_failure_opens_its_explanation(chromium: str, page: Path, tmp_path: Path) -> None:
    anchor = re.findall(r'id="(failures-[0-9a-f]+)"', page.read_text(encoding="utf-8"))[1]
    rows = failure_rows(opened(chromium, f"{page.as_uri()}#{anchor}", tmp_path))
    assert [('<details class="why" open' in row) for row in rows] == [False, True, False]


def test_a_click_on_a_header_sorts_by_number(chromium: str, page: Path, tmp_path: Path) -> None:
    click = 'document.querySelectorAll("#table-failures thead button")[5].click();'
    document = opened(chromium, after(page, click), tmp_path)
    ratios = [re.findall(r'class="n">([^<]*)<', row)[0] for row in failure_rows(document)]
    assert ratios == ["300", "10.0", "2.00"]
    assert 'aria-sort="descending"' in document


def test_the_filter_hides_the_rows_that_lack_a_word(chromium: str, page: Path, tmp_path: Path) -> None:
    fill = (
        'const box = document.querySelector("[data-for=table-errors] input"); box.value = "ROPE pass";'
        'box.dispatchEvent(new Event("input"));'
    )
    document = opened(chromium, after(page, fill), tmp_path)
    assert "1 of 2 rows" in document
