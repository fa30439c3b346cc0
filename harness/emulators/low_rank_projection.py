"""A projection through a bottleneck: two matrix products around an RMSNorm, stored in between.

Stages: ``down_proj``, ``norm``, ``up_proj``; their points are those of ``linear`` and ``rms_norm``, and ``.stored``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from harness.emulators import linear
from harness.emulators.arithmetic import Arithmetic
from harness.emulators.layer_parts import normed, projected
from harness.emulators.parts import stage

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": up_proj(rms_norm(down_proj(x)))}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``hidden_states`` (..., in_features) and the parameters, behind the sample axis.
        options: the layer's arguments; ``norm_eps`` is used.
    """
    down = projected(arithmetic, "down_proj", tensors["hidden_states"], tensors["down_proj.weight"])
    rows = normed(arithmetic, "norm", down, tensors["norm.weight"], eps=float(options["norm_eps"]))
    return linear.emulate(stage(arithmetic, "up_proj"), {"x": rows, "weight": tensors["up_proj.weight"]}, {})
