"""The pytest plug-in: ``pytest --attest-plugin my_kernels.py``, one test per candidate and operation.

Test ids follow from the file alone, so that pytest-xdist's workers agree on them. The cases that failed are kept in
pytest's cache, a file per test, and judged first the next time. Importing this module imports neither torch nor the
testbench: pytest loads it wherever attest is installed.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.execute import Worker

__all__ = ["AttestFile", "AttestItem"]

_WORKER: pytest.StashKey["Worker"] = pytest.StashKey()

_KEPT = 5
"""Failing cases that are remembered per test, the latest first."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    group = parser.getgroup("attest", "attest: judge kernels against a float64 reference")
    group.addoption(
        "--attest-plugin", action="append", default=[], metavar="FILE.py", dest="attest_plugin",
        help="judge the CANDIDATES of this file; may be repeated",
    )  # fmt: skip
    group.addoption("--attest-cases", type=int, default=50, metavar="N", help="cases per candidate (default 50)")
    group.addoption("--attest-seed", type=int, default=0, metavar="S", help="seed of the draw (default 0)")
    group.addoption("--attest-device", choices=("cpu", "cuda"), default="cpu", help="where candidates run")


def pytest_configure(config: pytest.Config) -> None:
    """Lets pytest look at the files that were named, beside whatever else it collects.

    Raises:
        pytest.UsageError: a file is not there, or a number makes no sense.
    """
    config.addinivalue_line("markers", "attest: judges one candidate of --attest-plugin")
    if config.getoption("attest_cases") < 1:
        raise pytest.UsageError(f"--attest-cases: got {config.getoption('attest_cases')}, expected at least 1")
    for path in _files(config):
        if not path.is_file():
            raise pytest.UsageError(f"--attest-plugin: got {str(path)!r}, expected the path of a Python file")
        if str(path) not in config.args:
            config.args.append(str(path))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the worker process that the tests shared."""
    worker = config.stash.get(_WORKER, None)
    if worker is not None:
        worker.close()


def _worker(config: pytest.Config) -> "Worker":
    """Returns the worker of this pytest process; starting one costs seconds."""
    from harness.execute import Worker

    if _WORKER not in config.stash:
        config.stash[_WORKER] = Worker(device=config.getoption("attest_device"))
    return config.stash[_WORKER]


def _files(config: pytest.Config) -> list[Path]:
    return [config.invocation_params.dir / name for name in config.getoption("attest_plugin")]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "AttestFile | None":
    """Returns the tests of a file that was named."""
    if any(path.is_file() and file_path.samefile(path) for path in _files(parent.config)):
        return AttestFile.from_parent(parent, path=file_path)
    return None


class AttestFile(pytest.File):
    """A plug-in file: one test per candidate, in the order of its ``CANDIDATES``."""

    def collect(self) -> Iterator["AttestItem"]:
        """Yields the tests.

        Raises:
            CollectError: the file does not import, or holds no candidates.
        """
        from harness.candidates import find_candidates
        from harness.errors import UsageError

        try:
            candidates = find_candidates(str(self.path)).candidates
        except UsageError as error:
            raise self.CollectError(str(error)) from error
        for item in candidates.values():
            yield AttestItem.from_parent(self, name=f"{item.op}[{item.name}]", candidate=item.name)


class AttestItem(pytest.Item):
    """One candidate on its operation.

    Args:
        candidate: its name.
        fields: of pytest.
    """

    def __init__(self, *, candidate: str, **fields: Any) -> None:  # noqa: ANN401 - pytest's own fields
        super().__init__(**fields)
        self.candidate = candidate
        self.add_marker(pytest.mark.attest)

    def runtest(self) -> None:
        """Judges the cases that failed before, then drawn ones, and remembers the one that fails.

        Raises:
            CheckFailedError: the candidate fails.
        """
        from harness.testing import check, failed_case

        known = self._known()
        try:
            check(
                self.candidate, plugin=str(self.path), first=known, cases=self.config.getoption("attest_cases"),
                seed=self.config.getoption("attest_seed"), device=self.config.getoption("attest_device"),
                worker=_worker(self.config),
            )  # fmt: skip
        except AssertionError as error:
            case = failed_case(error)
            if case is not None:
                line = json.dumps(dict(case), separators=(",", ":"))
                self._remember([line, *(each for each in known if each != line)][:_KEPT])
            raise
        if known:
            self._remember([])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ANN401 - pytest's own
        """Returns what is wrong with the kernel; a traceback through the testbench would say nothing about it."""
        return str(excinfo.value) if isinstance(excinfo.value, AssertionError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Returns where the test is from."""
        return self.path, None, self.name

    @property
    def _key(self) -> str:
        return f"attest/{hashlib.sha256(self.nodeid.encode()).hexdigest()[:16]}"

    def _known(self) -> list[str]:
        """Returns the cases that failed before, but for those of an earlier version of the operation."""
        from harness.cases import case_from_text
        from harness.errors import UsageError

        cache: Any = self.config.cache  # absent with -p no:cacheprovider
        found = cache.get(self._key, []) if cache is not None else []
        known = []
        for line in found if isinstance(found, list) else []:
            with contextlib.suppress(UsageError):
                case_from_text(str(line))
                known.append(str(line))
        return known

    def _remember(self, lines: list[str]) -> None:
        cache: Any = self.config.cache
        if cache is not None:
            cache.set(self._key, lines)
