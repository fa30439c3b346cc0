"""Seeded faults of everything but softmax attention: element-wise, norms, the delta rule, layers; also a plug-in."""

from collections.abc import Mapping

from harness.power.fault import Fault
from optimized.candidate import Candidate
from tests.faults import conv_faults, decay_faults, delta_rule_faults, layer_faults, norm_faults, rope_faults

__all__ = ["CANDIDATES", "FAULTS", "NOT_SEEDED", "SURVIVORS"]

_MODULES = (rope_faults, norm_faults, conv_faults, decay_faults, delta_rule_faults, layer_faults)

FAULTS: tuple[Fault, ...] = tuple(sorted((each for module in _MODULES for each in module.FAULTS), key=lambda it: it.id))
"""In the order of their ids; ids with a Y are planted, not found."""

NOT_SEEDED: Mapping[str, str] = {
    "B090": "a fault of a harness: tests of the judge change every output and gradient in turn",
    "B091": "a fault of a harness: tests of the judge plant single elements, NaN, infinities, shapes and dtypes",
    "B092": "a fault of a harness: tests of the worker check that inputs keep their bits and every call has its own",
    "B093": "a fault of a harness: rules of that kind are scored beside the judge on every fault of this catalogue",
    "B094": "a fault of a harness: tests of the budget hold that it does not vanish where all weights are 1",
    "B095": "a fault of a harness: tests with dumb outputs require every operation to fail them",
    "B096": "a fault of a harness: the regimes of a fault are scored one by one",
    "B097": "a fault of a harness: cotangents come from the case and are laid out afterwards, as tests of inputs hold",
    "B098": "a fault of a harness: the reference is certified by ball arithmetic and a second formulation",
    "B099": "a fault of a harness: tests of the worker return memory that nobody wrote",
    "B100": "a fault of a benchmark: no kernel is wrong, tests of timing plant it",
}
"""Real bugs that no kernel can have, and who looks for them."""

SURVIVORS: Mapping[str, str] = {
    "B070": "within a chunk of 16 tokens, what is lost to the total stays below the noise of sums in float32",
    "Y002": "in bfloat16 the decays meet products that the recipe rounds to bfloat16 anyway",
    "Y009": "in bfloat16 the recipe rounds the state to bfloat16 wherever it meets a product",
}
"""Faults that pass in a storage dtype, and why."""

CANDIDATES: tuple[Candidate, ...] = tuple(
    candidate for fault in FAULTS for pair in fault.pairs.values() for candidate in pair
)
"""The wrong ones and their healthy twins."""
