"""Profiles of the main job: how many cases per operation, how large, what is timed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.bench.calls import PHASES
from harness.errors import UsageError, nearest
from harness.timing import FEWEST

__all__ = ["PROFILES", "TIMED_SMALL", "Profile", "profile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What ``attest run --profile NAME`` does.

    Attributes:
        device: where candidates run.
        cases: cases per operation; operations that are not named take ``default_cases``.
        default_cases: cases of every other operation.
        largest: largest number of tokens; operations that are not named take ``default_largest``.
        default_largest: largest number of tokens of every other operation.
        timed: fields of the one case per operation whose speed is measured.
        timed_dtypes: storage dtypes of those cases.
        untimed: patterns of candidates that get no time.
        phases: what is timed of a call.
        repeats: paired repetitions of a timing.
        certify: whether the reference is certified by ball arithmetic when python-flint is there.
    """

    device: str = "cpu"
    cases: Mapping[str, int] = field(default_factory=dict)
    default_cases: int
    largest: Mapping[str, int] = field(default_factory=dict)
    default_largest: int
    timed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timed_dtypes: Sequence[str] = ("float32", "bfloat16")
    untimed: Sequence[str] = ()
    phases: Sequence[str] = PHASES
    repeats: int = 21
    certify: bool = True


TIMED_SMALL: Mapping[str, Mapping[str, Any]] = {
    "rms_norm": {"batch": 2, "tokens": 256, "channels": 512},
    "gated_rms_norm": {"batch": 2, "tokens": 256, "heads": 4, "channels": 128},
    "l2_norm": {"batch": 2, "tokens": 256, "heads": 4, "width": 128},
    "rope": {"batch": 2, "tokens": 256, "heads": 4, "width": 64},
    "rope_tables": {"batch": 2, "tokens": 256, "rope_dim": 64},
    "short_conv": {"batch": 2, "tokens": 256, "channels": 256},
    "silu_mul": {"batch": 2, "tokens": 256, "channels": 512},
    "mamba_decay": {"batch": 2, "tokens": 512, "heads": 16},
    "log_sigmoid_decay": {"batch": 2, "tokens": 512, "heads": 16},
    "attention": {
        "batch": 2, "query_tokens": 96, "key_tokens": 96, "key_heads": 4, "group": 1, "head_dim": 64, "value_dim": 64,
        "window_right": 0,
    },
    "varlen_attention": {
        "query_lengths": (48, 96, 32), "key_lengths": (48, 96, 32), "key_heads": 4, "group": 1, "head_dim": 64,
        "value_dim": 64, "window_right": 0,
    },
    "gated_delta_rule": {"batch": 1, "tokens": 128, "key_heads": 2, "group": 1, "key_dim": 64, "value_dim": 64},
    "low_rank_projection": {"batch": 2, "tokens": 128, "in_features": 128, "bottleneck": 32, "out_features": 128},
    "flash_sdpa": {
        "batch": 2, "query_tokens": 96, "key_tokens": 96, "key_heads": 2, "group": 2, "head_dim": 64, "value_dim": 64,
    },
    "grouped_query_attention": {
        "batch": 1, "tokens": 96, "hidden_size": 128, "key_heads": 2, "group": 2, "head_dim": 32,
    },
    "multi_head_latent_attention": {
        "batch": 1, "tokens": 96, "hidden_size": 128, "heads": 4, "nope_dim": 32, "rope_dim": 16, "value_dim": 32,
        "kv_lora_rank": 32,
    },
    "gated_delta_net": {
        "batch": 1, "tokens": 96, "hidden_size": 128, "key_heads": 2, "group": 2, "key_dim": 32, "value_dim": 32,
    },
}  # fmt: skip
"""Fields of the one case per operation that ``attest bench`` times on a CPU."""

PROFILES: Mapping[str, Profile] = {
    # A newcomer's first command: minutes on two cores. A third of the cases of "gate", each of them smaller, times of
    # one dtype without the backward pass alone, and no more rounds than an interval of 99 % needs.
    "quick": Profile(
        cases={
            "attention": 15, "gated_delta_rule": 9, "gated_delta_net": 9, "grouped_query_attention": 9,
            "multi_head_latent_attention": 9,
        },
        default_cases=12,
        largest={"gated_delta_rule": 48, "gated_delta_net": 40},
        default_largest=64,
        timed={op: {**fields, **({"batch": 1} if "batch" in fields else {})} for op, fields in TIMED_SMALL.items()},
        timed_dtypes=("float32",),
        untimed=("flex-*",),  # a shape is compiled forward and backward before its first call: half of all timing
        phases=("forward", "forward+backward"),
        repeats=FEWEST,
    ),
    # What a change is judged by: enough cases to see a distribution shift. Speed beside the float64 reference trips
    # nothing (reports.gates.speed), so that none is measured.
    "gate": Profile(
        cases={"attention": 48, "gated_delta_rule": 36, "rms_norm": 27},
        default_cases=21,
        largest={"gated_delta_net": 48},
        default_largest=80,
        certify=False,
    ),
    "full": Profile(
        default_cases=600, largest={"gated_delta_rule": 160, "attention": 160}, default_largest=100, timed=TIMED_SMALL
    ),
    # Speed on a GPU is measured at the standard shapes of harness.gpu: small ones would time the launch.
    "gpu": Profile(
        device="cuda", cases={"attention": 360, "varlen_attention": 240, "gated_delta_rule": 240}, default_cases=120,
        largest={"attention": 300, "varlen_attention": 300}, default_largest=160, certify=False,
    ),
    "rehearsal": Profile(default_cases=3, default_largest=16, certify=False),
}  # fmt: skip


def profile(name: str) -> Profile:
    """Returns a profile.

    Raises:
        UsageError: there is no profile of this name.
    """
    if name not in PROFILES:
        raise UsageError(f"--profile: got {name!r}, expected one of {', '.join(PROFILES)}{nearest(name, PROFILES)}")
    return PROFILES[name]
