"""The room stands alone."""

import subprocess
import sys

import reference


def test_importing_the_references_imports_no_kernel_stack_and_no_other_room() -> None:
    program = (
        "import sys, reference; "
        "found = {m.split('.')[0] for m in sys.modules} & {'triton', 'optimized', 'harness', 'reports', 'tests'}; "
        "print(sorted(found))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (0, "[]\n"), finished.stderr


def test_every_public_name_is_there_and_documented() -> None:
    documented = [name for name in reference.__all__ if getattr(reference, name).__doc__]
    assert documented == sorted(reference.__all__)
