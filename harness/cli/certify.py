"""``attest certify``: how far the float64 reference is from its enclosure by ball arithmetic."""

import argparse

from rich.console import Console

from harness.certify.certify import certify, print_certificates
from harness.ops import operation

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "execute"]

NAME = "certify"
HELP = "Enclose the reference by ball arithmetic; print its largest distance in units of eps * condition."
EXAMPLE = "attest certify --op attention"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--op", action="append", help="only this operation; may be repeated (default: all)")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    for name in arguments.op or ():
        operation(name)
    certificates = certify(arguments.op)
    print_certificates(certificates, Console(emoji=False))
    return int(any(not item.distance <= item.limit for item in certificates))
