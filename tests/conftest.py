"""What every test runs under: one thread per process, interpreted Triton kernels, a named hypothesis profile.

``gate`` is the default: the same examples in every run, so that a red test is red again. ``dev`` draws a few random
ones, ``fuzz`` many, and both remember failures; choose with ``--hypothesis-profile=NAME``.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# Triton reads this when it decorates a kernel, so it stands before any test imports one. Workers set their own.
os.environ.setdefault("TRITON_INTERPRET", "1")

DEFAULT_PROFILE = "gate"

# A busy machine is slow, which says nothing about the strategy that it draws from.
_PATIENT = [HealthCheck.too_slow]

settings.register_profile("dev", max_examples=20, deadline=None, suppress_health_check=_PATIENT)
settings.register_profile(
    "gate", max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=_PATIENT
)
settings.register_profile("fuzz", max_examples=2000, deadline=None, suppress_health_check=_PATIENT, print_blob=True)
settings.load_profile(DEFAULT_PROFILE)

torch.set_num_threads(1)


def pytest_report_header(config: pytest.Config) -> str:
    profile = config.getoption("--hypothesis-profile", default=None) or DEFAULT_PROFILE
    return f"attest: hypothesis profile {profile}, torch {torch.__version__}, {torch.get_num_threads()} thread"
