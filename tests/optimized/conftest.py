"""Makes Triton interpret the kernels that these tests import.

Triton reads the setting when it decorates a function, its own library included. It must therefore be in the environment
before anything imports Triton; setting ``triton.knobs.runtime.interpret`` afterwards leaves ``tl.sum`` and its like
compiled, and every kernel that calls them fails. The interpreter is made quick, as in a worker.
"""

import importlib
import os
import sys

from harness.interpreter import quicken

os.environ["TRITON_INTERPRET"] = "1"

if "triton" in sys.modules and not sys.modules["triton"].knobs.runtime.interpret:
    raise RuntimeError("tests/optimized: Triton was imported before TRITON_INTERPRET=1 was set; run these tests alone")

importlib.import_module("triton.runtime.interpreter")
quicken()
