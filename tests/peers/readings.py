"""Our reading of what the campaign found, by candidate and output: what it is, and why; the records say the rest.

A reading is looked up by the candidate's name and the judged tensor, the first pattern that fits counts. The page shows
a failure without a reading as such, and no reading without a failure.
"""

import fnmatch
from dataclasses import dataclass

__all__ = ["KINDS", "READINGS", "Reading", "reading_of"]

KINDS = ("bug", "another convention", "looser recipe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What we make of a failure.

    Attributes:
        candidate: pattern of candidates.
        output: pattern of judged tensors; ``call`` stands for a call that raised.
        kind: one of ``KINDS``.
        why: sentences.
        care: how much a user of that peer should care, 1 most.
    """

    candidate: str
    output: str
    kind: str
    why: str
    care: int


READINGS: tuple[Reading, ...] = (
    Reading(
        candidate="d9d-gqa-eager-boolean-mask*",
        output="*",
        kind="bug",
        care=1,
        why="The eager backend adds the mask to the logits. A boolean key mask, which the torch backend of the "
        "same layer takes, adds 1 to what may be seen and hides nothing, without a word; padding is "
        "attended to.",
    ),
    Reading(
        candidate="liger-rope-*",
        output="call",
        kind="bug",
        care=2,
        why="The backward pass rotates the gradient that it is given in place. Whoever holds that tensor, a "
        "hook or a second branch of the graph, finds it changed.",
    ),
    Reading(
        candidate="fla-[kg]d[an]-gate-*",
        output="*",
        kind="bug",
        care=3,
        why="Softplus is log(1 + exp(x)): for x far below 0 the sum is 1 and the log decay is 0 instead of exp(x). "
        "Heads that should forget slowly do not forget at all, and the gradient of A_log goes with it. log1p is the "
        "cure.",
    ),
    Reading(
        candidate="fla-logsigmoid-*",
        output="*",
        kind="bug",
        care=4,
        why="The same loss at the other end: for large x, log(sigmoid(x)) is -exp(-x) and comes out as 0, with "
        "its gradient.",
    ),
    Reading(
        candidate="transformers-rope-tables-*",
        output="*",
        kind="looser recipe",
        care=5,
        why="The angle is a product in float32, which at position 10^6 is off by hundredths of a radian. "
        "Queries and keys share the error of their own position, not of their distance: it matters for "
        "contexts of 10^5 tokens and more.",
    ),
    Reading(
        candidate="torch-sdpa-flash-*",
        output="grad:*",
        kind="looser recipe",
        care=6,
        why="torch's CPU kernel adds the gradients of keys and values up in 16 bits, over blocks of queries and "
        "the heads of a group. The errors grow with both.",
    ),
    Reading(
        candidate="transformers-gpt-oss-*",
        output="*",
        kind="looser recipe",
        care=7,
        why="The maximum is subtracted from logits that are stored in bfloat16 and the softmax stays in "
        "bfloat16: one rounding more than plain eager attention, where Qwen3's code takes the softmax in "
        "float32.",
    ),
    Reading(
        candidate="transformers-*-delta-rule-*",
        output="grad:*",
        kind="looser recipe",
        care=8,
        why="Heads of queries and keys are repeated before the conversion to float32, so that the gradients of "
        "a group's heads are each rounded to bfloat16 and added up in it.",
    ),
    Reading(
        candidate="torch-flex-bf16",
        output="out",
        kind="looser recipe",
        care=9,
        why="Uncompiled, flex_attention rounds more than torch's SDPA by plain matrix products, whose recipe is "
        "stated here. Its authors warn that the uncompiled form is for debugging.",
    ),
    Reading(
        candidate="fla-l2norm-fp16",
        output="grad:x",
        kind="looser recipe",
        care=10,
        why="The backward pass starts from the stored result, rounded to 16 bits, instead of from x.",
    ),
    Reading(
        candidate="d9d-silu-mul-fp16",
        output="*",
        kind="looser recipe",
        care=11,
        why="Rounds on the way what a kernel in float32 would round once at its end.",
    ),
    Reading(
        candidate="torch-normalize-*",
        output="*",
        kind="another convention",
        care=12,
        why="Divides by max(|x|, eps), where l2_norm has eps beside the squares in the root. The two differ for "
        "short vectors alone; a model that was trained with one should not run with the other.",
    ),
)


def reading_of(candidate: str, output: str) -> Reading | None:
    """Returns the reading of a failure, or None."""
    for reading in READINGS:
        if fnmatch.fnmatch(candidate, reading.candidate) and fnmatch.fnmatch(output, reading.output):
            return reading
    return None
