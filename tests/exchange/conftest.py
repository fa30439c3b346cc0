"""Every test of this folder needs transformers."""

import importlib.util
import os
import sys

import pytest

# transformers takes kernels from these packages, if they can be imported, at its own import; they need a GPU.
_KERNEL_PACKAGES = ("fla", "causal_conv1d")


@pytest.fixture(autouse=True, scope="session")
def _transformers_without_kernels() -> None:
    """Skips where transformers is missing, and lets it neither pick kernels for a GPU nor look for files online."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed: it comes with the extra 'peers'")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in _KERNEL_PACKAGES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None makes an import fail: typeshed leaves it out
