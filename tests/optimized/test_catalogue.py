import subprocess
import sys
from collections import Counter

import pytest

from harness.ops import OPS
from optimized.catalogue import CANDIDATES

TRAINED = ("float32", "bfloat16", "float16")


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(candidate.name for candidate in CANDIDATES).items() if count > 1] == []


def test_every_operation_is_known() -> None:
    assert {candidate.op for candidate in CANDIDATES} == set(OPS)


@pytest.mark.parametrize("storage", TRAINED)
def test_every_operation_has_a_candidate_that_runs_everywhere(storage: str) -> None:
    plain = {c.op for c in CANDIDATES if c.recipe.storage == storage and c.supports is None and "cpu" in c.devices}
    assert set(OPS) - plain == set()


def test_a_name_ends_in_the_storage_format() -> None:
    suffix = {"float64": "-fp64", "float32": "-fp32", "bfloat16": "-bf16", "float16": "-fp16"}
    assert [c.name for c in CANDIDATES if not c.name.endswith(suffix[c.recipe.storage])] == []


def test_listing_imports_no_kernel_stack() -> None:
    heavy = "print([name for name in ('torch', 'triton') if name in sys.modules])"
    assert _run(f"import sys, optimized.catalogue; {heavy}") == "[]"


def test_loading_a_plain_candidate_leaves_triton_alone() -> None:
    code = (
        "import sys; from optimized.catalogue import CANDIDATES\n"
        "sys.modules['triton'] = None\n"
        "[c.load() for c in CANDIDATES if c.name.startswith(('torch-', 'eager-', 'sdpa-', 'chunked-'))]\n"
        "print('loaded')"
    )
    assert _run(code) == "loaded"


@pytest.mark.parametrize("name", sorted({c.name.rsplit("-", 1)[0] for c in CANDIDATES}))
def test_every_candidate_loads_a_callable(name: str) -> None:
    assert all(callable(c.load()) for c in CANDIDATES if c.name.startswith(f"{name}-"))
