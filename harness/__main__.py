"""The command line: ``attest`` when installed, ``python -m harness`` from a plain checkout."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis.configuration import set_hypothesis_home_dir

from harness.cli import main as command_line

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # Hypothesis keeps a cache in the working directory, which is the user's and not ours.
    set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "attest-hypothesis")
    return command_line.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
