"""Certifies that `reference/` is right to a few roundings, by enclosing what it should return in Arb balls.

For every output and gradient the *distance* is the largest ``|reference - ball| / (eps * condition)`` over the elements
of all cases, where ``eps = 2^-52`` and the *condition* of an element ``y`` is

    |y| + sum_x |dy/dx| |x|

over the numbers ``x`` that the element is computed from: each element of each input, for gradients also each element of
each cotangent, and the normalisers: the root of each norm's row and the denominator of each softmax row. It is how far
``y`` moves, to first order, when all of these and ``y`` itself move by one unit relative to themselves: what comes of
inputs and normalisers that were rounded in their last place, and is exact otherwise, has a distance of at most 1/2.
Normalisers count because whoever stores one rounds it; without them the gradient of a norm by a channel that is 10^6
times the others would have to be computed from pairs of channels. The derivatives come from the tape of balls, not
from the reference, in double precision, which is enough for a unit of error. Positions of ``rope_tables`` are integers
and not rounded: see there.

Exceptions: an element that is zero by structure (hidden keys, rows that see nothing), whose ball is exactly 0, and one
that is infinite (the log-sum-exp of such a row) must be matched exactly; a unit below the smallest normal number of
float64 is replaced by that number, because nothing computed in float64 is relatively accurate below it.

The distance is measured to the far side of the ball, so that it contains the ball's radius.

This module imports neither python-flint nor torch before a certificate is asked for.
"""

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError, nearest
from harness.records import Certificate

if TYPE_CHECKING:
    from rich.console import Console

    from harness.certify.case import Case

__all__ = ["BITS", "LIMIT", "OPERATIONS", "certify", "certify_cases", "print_certificates"]

OPERATIONS: tuple[str, ...] = (
    "rms_norm",
    "gated_rms_norm",
    "l2_norm",
    "rope",
    "rope_tables",
    "short_conv",
    "silu_mul",
    "mamba_decay",
    "log_sigmoid_decay",
    "attention",
    "varlen_attention",
    "gated_delta_rule",
    "low_rank_projection",
    "flash_sdpa",
    "grouped_query_attention",
    "multi_head_latent_attention",
    "gated_delta_net",
)
"""Operations that can be certified, in the order of the certificates."""

LIMIT = 8.0
"""Largest distance of a certified result."""

BITS = 192
"""Working precision: far beyond the 128 bits of attention and the 64 + 0.4 T bits of a delta rule of 12 tokens; the
column ``radius``, in the same units as the distance, shows what is left of it."""


def certify(ops: Sequence[str] | None = None) -> list[Certificate]:
    """Returns one certificate per output and gradient of the operations (all when ``ops`` is None).

    Raises:
        UsageError: an operation is unknown, or python-flint is not installed.
    """
    chosen = OPERATIONS if ops is None else tuple(ops)
    for op in chosen:
        if op not in OPERATIONS:
            raise UsageError(f"op: got {op!r}, expected one of {', '.join(OPERATIONS)}{nearest(op, OPERATIONS)}")
    _require_flint()
    reference = importlib.import_module("reference")
    cases = importlib.import_module("harness.certify.cases")
    return [certificate for op in chosen for certificate in certify_cases(cases.cases_of(op), getattr(reference, op))]


def certify_cases(cases: Iterable["Case"], function: Callable[..., Any], *, bits: int = BITS) -> list[Certificate]:
    """Returns the certificates of any implementation in torch float64, over cases of one operation.

    Raises:
        UsageError: python-flint is not installed.
    """
    _require_flint()
    examine = importlib.import_module("harness.certify.examine")
    found: dict[str, Certificate] = {}
    for case in cases:
        actual = examine.evaluate(case, function)
        for output, enclosed in examine.enclose(case, bits=bits).items():
            new = Certificate(
                op=case.op,
                output=output,
                cases=1,
                elements=enclosed.balls.size,
                distance=float(examine.distances(enclosed, actual[output]).max(initial=0.0)),
                limit=LIMIT,
                radius=enclosed.radius,
                bits=bits,
            )
            found[output] = _merged(found[output], new) if output in found else new
    return list(found.values())


def _merged(first: Certificate, second: Certificate) -> Certificate:
    return Certificate(
        op=first.op,
        output=first.output,
        cases=first.cases + second.cases,
        elements=first.elements + second.elements,
        distance=max(first.distance, second.distance),
        limit=first.limit,
        radius=max(first.radius, second.radius),
        bits=first.bits,
    )


def _require_flint() -> None:
    if importlib.util.find_spec("flint") is None:
        raise UsageError("certify: python-flint is not installed, expected the extra 'attest[certify]'")


def print_certificates(certificates: Sequence[Certificate], console: "Console") -> None:
    """Prints one line per output and gradient, and the largest distance of all."""
    from rich.table import Table

    worst = max(certificates, key=lambda item: item.distance, default=None)
    if worst is None:
        return
    table = Table(title="Distance of the float64 reference from its enclosure, in eps * condition", box=None)
    table.add_column("operation, output", no_wrap=True)
    for heading in ("cases", "elements", "distance", "radius"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for op, group in itertools.groupby(certificates, key=lambda item: item.op):
        table.add_row(f"[bold]{op}[/]")
        for item in group:
            verdict = "" if _is_certified(item) else "[bold red]TOO FAR[/]"
            row = (str(item.cases), str(item.elements), f"{item.distance:.3g}", f"{item.radius:.0e}", verdict)
            table.add_row(f"  {item.output}", *row)
    console.print(table)
    far = sum(not _is_certified(item) for item in certificates)
    console.print(
        f"largest distance {worst.distance:.3g} ({worst.op}, {worst.output}); limit {worst.limit:g}; "
        f"{worst.bits} bits; {far} of {len(certificates)} too far",
        highlight=False,
    )


def _is_certified(certificate: Certificate) -> bool:
    return certificate.distance <= certificate.limit
