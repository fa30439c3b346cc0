"""Faults of the layers' wiring. Letters: B batch, T tokens, H heads, D head width, R rotated channels."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.power.fault import Fault
from optimized.eager.rms_norm import rms_norm
from optimized.eager.rope import rope
from tests.faults.gradient_paths import passed, through
from tests.faults.layer_steps import DeltaNet, GroupedQuery, Latent, Surroundings, heads
from tests.faults.norm_steps import Norm
from tests.faults.seeding import SINGLE, Call, seeded

__all__ = ["FAULTS"]

YARN_MAGNITUDE = 1.26
"""Of the tables for a context that is extended some tenfold."""


class _KeySineBackward(GroupedQuery):
    """The gradient of the keys is turned by their angles instead of back."""

    signs: ClassVar[dict[str, float]] = {"q": -1.0, "k": 1.0}

    def rotated(self, x: Tensor, name: str, around: Surroundings) -> Tensor:
        turned = super().rotated(x.detach(), name, around)

        def turned_back(grad: Tensor) -> Tensor:
            return self.rotation(grad, around.cos, self.signs[name] * around.sin, around.style)

        return turned + passed(x - x.detach(), turned_back)


class _SineBackward(_KeySineBackward):
    """The healthy twin, with the same backward pass."""

    signs: ClassVar[dict[str, float]] = {"q": -1.0, "k": -1.0}


class _PaddingUnwritten(GroupedQuery):
    """Rows of padding are left out of the store of what is rotated."""

    def rotated(self, x: Tensor, name: str, around: Surroundings) -> Tensor:
        turned = super().rotated(x, name, around)
        if around.mask is None:
            return turned
        return torch.where(around.mask[..., None, None], turned, torch.empty(turned.shape, dtype=turned.dtype))


class _PositionsFromPadding(GroupedQuery):
    """Queries of rows with padding on their left count from its end, keys from its start."""

    def tables(self, name: str, around: Surroundings) -> tuple[Tensor, Tensor]:
        if around.mask is None or name == "k":
            return super().tables(name, around)
        padding = (~around.mask).cumprod(1).sum(1, keepdim=True)
        at = (torch.arange(around.mask.shape[1]) - padding).clamp(min=0).unsqueeze(-1).expand(around.cos.shape)
        return around.cos.gather(1, at), around.sin.gather(1, at)


class _PairsOfWholeHead(GroupedQuery):
    """Pairs of a head whose first R channels are rotated are D / 2 channels apart."""

    def rotation(self, x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        half, width = cos.shape[-1] // 2, x.shape[-1] // 2
        at = torch.cat((torch.arange(half), torch.arange(half) + width))
        turned = rope(x[..., at], cos, sin, style=style)
        return x.index_copy(-1, at, turned)


class _PairsOfPart(GroupedQuery):
    """The healthy twin, with the same store."""

    def rotation(self, x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        at = torch.arange(cos.shape[-1])
        return x.index_copy(-1, at, rope(x[..., at], cos, sin, style=style))


class _TablesOverrun(GroupedQuery):
    """All channels are rotated; tables of R channels are read on into the next token's."""

    def rotation(self, x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        tokens, width = cos[..., 0].numel(), x.shape[-1]
        at = torch.arange(tokens)[:, None] * cos.shape[-1] + torch.arange(width)
        beyond = torch.empty(width, dtype=cos.dtype)
        cos, sin = (torch.cat((table.flatten(), beyond))[at].reshape(*cos.shape[:2], -1) for table in (cos, sin))
        return super().rotation(x, cos, sin, style)


class _OverProjection(GroupedQuery):
    """Normalised and rotated values are written over the projection that the norm's backward pass reads again."""

    def norm(self, x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool) -> Tensor:
        return Norm().rms_norm(x, weight, eps=eps, zero_centered=zero_centered)

    def prepared(self, x: Tensor, name: str, around: Surroundings) -> Tensor:
        out = super().prepared(x, name, around)
        if around.eps is not None:
            x.data.copy_(out.detach())
        return out


class _OutOfPlace(GroupedQuery):
    """The healthy twin, with the same norm."""

    def norm(self, x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool) -> Tensor:
        return Norm().rms_norm(x, weight, eps=eps, zero_centered=zero_centered)


class _RotatedFirst(GroupedQuery):
    """Queries and keys are rotated before they are normalised."""

    def prepared(self, x: Tensor, name: str, around: Surroundings) -> Tensor:
        return self.normalised(self.rotated(x, name, around), name, around)


class _NormSkipped(GroupedQuery):
    """Nobody normalises; the weights are not used."""

    def norm(self, x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool) -> Tensor:
        del eps, zero_centered
        return x + 0 * weight


class _NormOfAllHeads(GroupedQuery):
    """The mean square is that of all heads."""

    def norm(self, x: Tensor, weight: Tensor, *, eps: float, zero_centered: bool) -> Tensor:
        whole = rms_norm(
            x.flatten(2), weight.repeat(x.shape[2]), eps=eps, zero_centered=zero_centered
        )  # fmt: skip
        return heads(whole, x.shape[-1])


class _ScaleOfContent(Latent):
    """The scale is that of the part without positions."""

    def scale(self, content: int, rotary: int, value: int) -> float:
        del rotary, value
        return 1 / math.sqrt(content)


class _ScaleOfValues(Latent):
    """The scale is that of the values' width."""

    def scale(self, content: int, rotary: int, value: int) -> float:
        del content, rotary
        return 1 / math.sqrt(value)


class _KeyMagnitude(Latent):
    """The rotated part of the keys alone has YaRN's magnitude."""

    def key_rotation(self, x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        return super().key_rotation(x, cos * YARN_MAGNITUDE, sin * YARN_MAGNITUDE, style)


class _KeyPairs(Latent):
    """Keys are rotated in pairs of the other style."""

    def key_rotation(self, x: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        return super().key_rotation(x, cos, sin, "half" if style == "interleaved" else "interleaved")


class _KeysExpanded(DeltaNet):
    """Keys and values are grouped under more query heads, as in softmax attention."""

    def split(self, mixed: Tensor, keys: int, values: int, widths: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = torch.split(mixed, [values * widths[0], keys * widths[0], keys * widths[1]], -1)
        group = values // keys
        key, value = heads(key, widths[0]).repeat_interleave(group, 2), heads(value, widths[1])
        return heads(query, widths[0]), key, value.repeat_interleave(group, 2)


class _MaskOfBatches(DeltaNet):
    """Padding is zeroed only where there is more than one row."""

    def masked(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return super().masked(hidden, mask) if hidden.shape[0] > 1 else hidden


class _NarrowRates(DeltaNet):
    """Rates are bfloat16 between two computations in float32."""

    def rates(self, x: Tensor) -> Tensor:
        return through(super().rates(x), torch.bfloat16)


def _grouped() -> Call:
    return GroupedQuery().layer


def _rotating_back() -> Call:
    return _SineBackward().layer


def _pairs_of_part() -> Call:
    return _PairsOfPart().layer


def _out_of_place() -> Call:
    return _OutOfPlace().layer


def _latent() -> Call:
    return Latent().layer


def _delta_net() -> Call:
    return DeltaNet().layer


def _attention(number: str, name: str, faulty: type[GroupedQuery], **rest: Any) -> Fault:
    base = rest.pop("base", _grouped)
    return seeded(number, name, "grouped_query_attention", lambda _: faulty().layer, base=base, **rest)


def _mla(number: str, name: str, faulty: type[Latent], **rest: Any) -> Fault:
    return seeded(number, name, "multi_head_latent_attention", lambda _: faulty().layer, base=_latent, **rest)


def _gdn(number: str, name: str, faulty: type[DeltaNet], **rest: Any) -> Fault:
    return seeded(number, name, "gated_delta_net", lambda _: faulty().layer, base=_delta_net, **rest)


_PARTIAL = {"head_dim": 16, "rope_dim": 8, "rope_style": "half"}

FAULTS: tuple[Fault, ...] = (
    _gdn("B037", "keys-expanded", _KeysExpanded,
         what="Keys and values are grouped under more query heads, where queries and keys belong under more values.",
         source="d9d ae650d5", detectors=("VAL",), reach={"group": 2, "key_dim": 8, "value_dim": 8}),
    _attention("B046b", "key-sine-backward", _KeySineBackward, base=_rotating_back,
               what="The backward pass turns the keys' gradient by their angles instead of back, the queries' right.",
               source="flash-attention 4c8ff915", detectors=("GRAD",), phase="gradient"),
    _attention("B049", "padding-unwritten", _PaddingUnwritten,
               what="Rotation stores no rows of padding, whose queries and keys are what memory held.",
               source="flash-linear-attention #967", detectors=("NAN", "MEM"), reach={"key_mask": True}),
    _attention("B050", "positions-from-padding", _PositionsFromPadding,
               what="Queries behind padding are rotated as if the sequence began after it, keys are not.",
               source="flash-linear-attention 7d079d70", detectors=("VAL",), reach={"key_mask": True}),
    _attention("B052b", "pairs-of-whole-head", _PairsOfWholeHead, base=_pairs_of_part,
               what="Channels that make a pair are half a head apart, though only a part of it is rotated.",
               source="pie #603", detectors=("VAL",), reach=_PARTIAL),
    _attention("B052c", "tables-overrun", _TablesOverrun,
               what="All channels are rotated, by tables that end before them and run into the next token's.",
               source="vllm #43676", detectors=("VAL", "NAN", "MEM"), reach=_PARTIAL),
    _attention("B053b", "over-projection", _OverProjection, base=_out_of_place,
               what="Rotated values are stored over the projection that the norm's backward pass reads.",
               source="unsloth #5001", detectors=("GRAD",), phase="gradient", reach={"qk_norm_eps": 1e-6}),
    _gdn("B064b", "mask-of-batches", _MaskOfBatches,
         what="Padding is zeroed only in batches of more than one row.",
         source="maxtext #5295", detectors=("VAL", "META"), reach={"mask": True, "batch": 1}),
    _gdn("B068b", "narrow-rates", _NarrowRates, storages=SINGLE,
         what="The strengths of writes are rounded to bfloat16 in a layer of float32.",
         source="sglang #38975", detectors=("VAL",)),
    _mla("B079a", "scale-of-content", _ScaleOfContent,
         what="The scale leaves out the rotated part of a head.",
         source="Megatron-LM #1429", detectors=("VAL",)),
    _mla("B079b", "scale-of-values", _ScaleOfValues,
         what="The scale is that of the values' width.", source="mobius #548", detectors=("VAL",)),
    _mla("B080a", "key-magnitude", _KeyMagnitude,
         what="The magnitude of a longer context multiplies the rotated keys alone.",
         source="imp #880", detectors=("VAL", "META")),
    _mla("B080b", "key-pairs", _KeyPairs,
         what="Queries and keys are rotated in pairs of unlike styles.",
         source="vllm-fork #2042", detectors=("VAL",), reach={"rope_dim": 8}),
    _attention("B082a", "rotated-first", _RotatedFirst,
               what="Queries and keys are rotated before they are normalised.",
               source="vllm-metal #659", detectors=("VAL",), reach={"qk_norm_eps": 1e-6}),
    _attention("B082b", "norm-skipped", _NormSkipped,
               what="The norms of queries and keys are left out.",
               source="vllm-metal #664", detectors=("VAL",), reach={"qk_norm_eps": 1e-6}),
    _attention("B083", "norm-of-all-heads", _NormOfAllHeads,
               what="Queries and keys are normalised over all heads at once.",
               source="flash-linear-attention 721a205a", detectors=("VAL",),
               reach={"qk_norm_eps": 1e-6, "group": 2}),
)  # fmt: skip
