"""The command line: ``attest`` when installed, ``python -m harness`` from a plain checkout."""

import sys

from harness.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
