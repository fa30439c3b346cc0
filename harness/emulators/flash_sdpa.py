"""Scaled dot-product attention as a layer: the emulator of ``attention`` with the layer's arguments.

The rounding points are those of ``attention``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from harness.emulators import attention
from harness.emulators.arithmetic import Arithmetic

__all__ = ["emulate"]


def emulate(arithmetic: Arithmetic, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns ``{"out": (K,B,T,H,V)}`` before the final store, differentiable.

    Args:
        arithmetic: the recipe and what happens at its rounding points.
        tensors: ``query_states``, ``key_states``, ``value_states`` and, if given, ``sinks`` with the sample axis,
            ``attention_mask`` (B, S), boolean, without.
        options: ``is_causal``, ``scale``, ``num_sinks`` and ``window_size``.
    """
    names = {
        "query_states": "query",
        "key_states": "key",
        "value_states": "value",
        "sinks": "sinks",
        "attention_mask": "key_mask",
    }
    renamed = {names[name]: tensor for name, tensor in tensors.items() if tensor is not None}
    window = (options.get("window_size"), 0) if options["is_causal"] else (None, None)
    return {"out": attention.emulate(arithmetic, renamed, {"scale": options["scale"], "window": window})["out"]}
