"""transformers' modules as their models make them: found when first needed, built on the parameters of a call."""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["causal_mask", "make", "model", "run"]


def model(name: str) -> Any:  # untyped: annotations come and go with the versions of transformers
    """Returns ``transformers.models.NAME.modeling_NAME``."""
    return _module(f"transformers.models.{name}.modeling_{name}")


@functools.cache
def _module(name: str) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not torch.cuda.is_available():
        # transformers takes kernels from these packages at its own import, if they are there; they need a GPU.
        for package in ("fla", "causal_conv1d"):
            sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None makes an import fail
    return importlib.import_module(name)


def make(layer: Callable[..., nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    """Returns a module without memory: it is run on the parameters of a call."""
    with torch.device("meta"):
        return layer(*arguments, **options)


def run(module: nn.Module, parameters: Mapping[str, Tensor], *inputs: Any, **options: Any) -> Any:
    """Returns what a module gives on parameters, each of which it must know.

    Raises:
        KeyError: a parameter has a name that the module does not know, or one is left out.
    """
    own = dict(module.named_parameters())
    if own.keys() != parameters.keys():
        raise KeyError(f"parameters: got {sorted(parameters)}, expected {sorted(own)}")
    return functional_call(module, dict(parameters), inputs, options, strict=False)


def causal_mask(config: Any, hidden_states: Tensor, key_mask: Tensor | None, *, is_sliding: bool = False) -> Any:
    """Returns the mask that a model makes for its layers: additive for eager attention, boolean or None for SDPA."""
    masks = _module("transformers.masking_utils")
    B, T, _ = hidden_states.shape
    make_mask = masks.create_causal_mask if not is_sliding else masks.create_sliding_window_causal_mask
    # There is no cache; transformers 5.24 renamed the argument and warns of the old name.
    no_cache = {name: None for name in ("cache", "past_key_values") if name in inspect.signature(make_mask).parameters}
    return make_mask(
        config=config,
        inputs_embeds=hidden_states,
        attention_mask=None if key_mask is None else key_mask.long(),
        position_ids=torch.arange(T, device=hidden_states.device).expand(B, T),
        **no_cache,
    )
