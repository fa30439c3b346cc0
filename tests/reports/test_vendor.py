"""The libraries that the page inlines are the versions that their README says, with their licenses."""

import re

import pytest

from reports.html import VENDOR


@pytest.mark.parametrize("name", ["d3", "plot"])
def test_the_version_in_the_readme_is_that_of_the_file(name: str) -> None:
    row = re.search(rf"`{name}\.min\.js` \|.*?\| ([0-9.]+) \|", (VENDOR / "README.md").read_text(encoding="utf-8"))
    assert row is not None
    assert f"v{row[1]} " in (VENDOR / f"{name}.min.js").read_text(encoding="utf-8").splitlines()[0]
    assert "Permission to use, copy, modify" in (VENDOR / f"{name}.LICENSE").read_text(encoding="utf-8")
