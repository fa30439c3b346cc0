"""Inputs of a standard shape, drawn on the device that they are timed on, and the part of them that is verified.

A case's own inputs are drawn on the CPU in float64, which takes longer than everything else at these sizes. What is
verified is small: some rows of one head, with cotangents that are zero elsewhere, so that the gradients of the whole
call are those of the part. Letters as everywhere: B, T, S, H, G, D, V.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.operations.base import Inputs, storage_dtype
from harness.operations.case import Case

__all__ = ["Part", "part_of", "rotations", "sparse_cotangent", "timed_inputs"]

Part = Mapping[str, tuple[slice, ...]]
"""By name of an input or of ``out``, what of it is verified; what has no entry is taken whole."""

_ROWS = 32


def timed_inputs(case: Case, device: str, seed: int) -> Inputs:
    """Returns fresh inputs of a case on the device, of ordinary values, with a cotangent of ``out``."""
    fields: dict[str, Any] = case.to_data()
    draw = _Draw(device, storage_dtype(case.dtype), seed)
    match case.op:
        case "attention":
            tensors, options, out = _attention(fields, draw)
        case "gated_delta_rule":
            tensors, options, out = _delta_rule(fields, draw)
        case "mamba_decay":
            shape = (fields["batch"], fields["tokens"], fields["heads"])
            tensors = {"x": draw(*shape), "a_log": draw(shape[2]), "dt_bias": draw(shape[2])}
            options, out = {}, shape
        case _:
            tensors, options, out = _rows(fields, draw)
    wide = torch.float32 if case.op == "mamba_decay" else draw.dtype
    return Inputs(tensors=tensors, options=options, cotangents={"out": draw(*out).to(wide)})


def rotations(inputs: Inputs, device: str, *, most: int) -> int:
    """Returns how many sets of inputs are taken in turn, so that none is in the cache of a GPU when its turn comes.

    Together they are at least four times the cache, unless that takes more sets than are allowed; at least two. On a
    CPU it is one: small calls find their inputs in the cache there, again and again.
    """
    if device != "cuda":
        return 1
    cache = 4 * int(torch.cuda.get_device_properties(0).L2_cache_size)
    size = sum(item.numel() * item.element_size() for item in inputs.tensors.values())
    return min(most, max(2, -(-cache // size)))


class _Draw:
    """Draws normal values."""

    def __init__(self, device: str, dtype: torch.dtype, seed: int) -> None:
        self.dtype = dtype
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        """Returns normal values of a shape in the storage dtype."""
        where = self._generator.device
        return torch.randn(shape, generator=self._generator, device=where, dtype=torch.float32).to(self.dtype)


_Drawn = tuple[dict[str, Tensor], dict[str, Any], tuple[int, ...]]


def _attention(fields: Mapping[str, Any], draw: _Draw) -> _Drawn:
    B, T, S, G = (fields[name] for name in ("batch", "query_tokens", "key_tokens", "key_heads"))
    H, D, V = G * fields["group"], fields["head_dim"], fields["value_dim"]
    tensors = {"query": draw(B, T, H, D), "key": draw(B, S, G, D), "value": draw(B, S, G, V)}
    if fields["sinks"]:
        tensors["sinks"] = draw(H)
    window = (fields["window_left"], fields["window_right"])
    return tensors, {"scale": D**-0.5, "window": window}, (B, T, H, V)


def _delta_rule(fields: Mapping[str, Any], draw: _Draw) -> _Drawn:
    """Gates as in fla's benchmark: log decays ``logsigmoid(normal)``, unit keys and queries."""
    B, T, G, D, V = (fields[name] for name in ("batch", "tokens", "key_heads", "key_dim", "value_dim"))
    H = G * fields["group"]
    unit = torch.nn.functional.normalize
    tensors = {
        "query": unit(draw(B, T, G, D).float(), dim=-1).to(draw.dtype),
        # A shade below 1, so that rounding cannot lift the length above it.
        "key": (0.98 * unit(draw(B, T, G, D).float(), dim=-1)).to(draw.dtype),
        "value": draw(B, T, H, V),
        "log_decay": torch.nn.functional.logsigmoid(draw(B, T, H).float()).to(draw.dtype),
        "beta": torch.sigmoid(draw(B, T, H).float()).to(draw.dtype),
    }
    return tensors, {"scale": D**-0.5}, (B, T, H, V)


def _rows(fields: Mapping[str, Any], draw: _Draw) -> _Drawn:
    """Operations on rows: norms, rotations, convolutions, gated products."""
    width = fields.get("channels") or fields["width"]
    shape = (fields["batch"], fields["tokens"], *([fields["heads"]] if "heads" in fields else []), width)
    match fields["op"]:
        case "rms_norm":
            return {"x": draw(*shape), "weight": 1 + draw(width)}, {"eps": fields["eps"]}, shape
        case "gated_rms_norm":
            return {"x": draw(*shape), "gate": draw(*shape), "weight": 1 + draw(width)}, {"eps": fields["eps"]}, shape
        case "l2_norm":
            return {"x": draw(*shape)}, {"eps": fields["eps"]}, shape
        case "rope":
            angles = draw(*shape[:2], width).float()
            tables = {"cos": angles.cos().to(draw.dtype), "sin": angles.sin().to(draw.dtype)}
            return {"x": draw(*shape), **tables}, {"style": fields["style"]}, shape
        case "short_conv":
            return {"x": draw(*shape), "weight": draw(width, fields["taps"])}, {}, shape
        case _:
            return {"gate": draw(*shape), "x": draw(*shape)}, {}, shape


def part_of(case: Case) -> Part:
    """Returns what is verified: the last rows of one head, or the first where only the past is seen through a state."""
    one, last, first, every = slice(0, 1), slice(-_ROWS, None), slice(0, 4 * _ROWS), slice(None)
    fields: dict[str, Any] = case.to_data()
    match case.op:
        case "attention":
            group = slice(0, fields["group"])
            query, keys = (one, last, group), (one, every, one)
            return {"query": query, "out": query, "key": keys, "value": keys, "sinks": (group,)}
        case "gated_delta_rule":
            group = slice(0, fields["group"])
            keys, values = (one, first, one), (one, first, group)
            return {
                "query": keys, "key": keys, "value": values, "log_decay": values, "beta": values, "out": values,
            }  # fmt: skip
        case "short_conv":
            return {"x": (one, first), "out": (one, first)}
        case _:
            return dict.fromkeys(("x", "gate", "cos", "sin", "out"), (one, last))


def sparse_cotangent(value: Tensor, part: Part) -> Tensor:
    """Returns a cotangent of ``out`` that is zero outside of the part."""
    kept = torch.zeros_like(value)
    kept[part["out"]] = value[part["out"]]
    return kept
