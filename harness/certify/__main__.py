"""Prints the certificates of `reference/`: ``python -m harness.certify [--op OP]...``.

Exit code 0: all certified; 1: a distance is beyond its limit; 2: a request that makes no sense.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from harness.certify.certify import certify, print_certificates
from harness.errors import UsageError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Certifies the operations named by ``--op`` (all by default), prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.certify", description="Certify the float64 reference.")
    parser.add_argument("--op", action="append", metavar="OP", help="an operation; may be repeated; default: all")
    try:
        certificates = certify(parser.parse_args(arguments).op)
    except UsageError as error:
        Console(stderr=True).print(str(error), markup=False)
        return 2
    print_certificates(certificates, Console(emoji=False))
    return 0 if all(item.distance <= item.limit for item in certificates) else 1


if __name__ == "__main__":
    sys.exit(main())
