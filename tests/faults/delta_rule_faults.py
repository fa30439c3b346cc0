"""Faults of the gated delta rule. Letters: B batch, H value heads, G query/key heads, C tokens of a chunk."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.power.fault import Fault
from tests.faults.chunked_rule import CHUNK, KEY_TILE, Chunked, Part, tensor_core
from tests.faults.gradient_paths import through
from tests.faults.seeding import SINGLE, Call, seeded
from tests.variants.wrong_formulas import scaled_option

__all__ = ["FAULTS"]


class _StateOfThePrevious(Chunked):
    """A packed sequence starts from the state that the one before it ended with."""

    def begin(self, own: Tensor, ends: Sequence[Tensor]) -> Tensor:
        return ends[-1] if ends else own


class _ResetLate(Chunked):
    """The state is reset one token after the start of each packed sequence but the first."""

    def offsets(self, offsets: list[int]) -> list[int]:
        return [0, *(min(offset + 1, offsets[-1]) for offset in offsets[1:-1]), offsets[-1]]


class _MaskedByProduct(Chunked):
    """Decays from later to earlier tokens are computed, and then multiplied by 0."""

    def between(self, g: Tensor) -> Tensor:
        difference = g - g.mT
        return difference.exp() * torch.ones_like(difference).tril()


class _Factored(Chunked):
    """The decay between two tokens is a quotient of decays from the chunk's start."""

    def between(self, g: Tensor) -> Tensor:
        return (g.exp() * (-g).exp().mT).tril()


class _PaddingWithoutDecay(Chunked):
    """Tokens beyond the end of a sequence have the sum 0 instead of the last token's."""

    def padded_decay(self, g: Tensor, tokens: int) -> Tensor:
        is_token = torch.arange(g.shape[2] * CHUNK).reshape(-1, CHUNK, 1) < tokens
        return torch.where(is_token, g, 0.0)


class _TotalMinusPrefix(Chunked):
    """Sums from the end are the total less the sum from the start."""

    def reversed_sum(self, grad: Tensor) -> Tensor:
        prefix = grad.cumsum(-2)
        return prefix[..., -1:, :] - prefix + grad


class _LongChunksBackward(Chunked):
    """The backward pass sums decays over chunks of twice as many tokens."""

    def reversed_sum(self, grad: Tensor) -> Tensor:
        chunks = grad.shape[2]
        padded = torch.nn.functional.pad(grad, (0, 0, 0, 0, 0, chunks % 2))
        pairs = torch.unflatten(padded, 2, (-1, 2)).flatten(3, 4)
        whole = torch.unflatten(super().reversed_sum(pairs), 3, (2, CHUNK)).flatten(2, 3)
        return whole[:, :, :chunks]


class _UngatedWithoutCorrection(Chunked):
    """Without a decay nothing is subtracted from what is written."""

    def inverse(self, part: Part, solved: Tensor) -> Tensor:
        return solved if part.is_gated else torch.eye(CHUNK).expand(solved.shape)

    def residual(self, part: Part, written: Tensor, recalled: Tensor) -> Tensor:
        return super().residual(part, written, recalled) if part.is_gated else written


class _UngatedWithoutKeyGradient(Chunked):
    """Without a decay, keys and rates get no gradient through the solution of a chunk."""

    def written_key(self, part: Part, key: Tensor) -> Tensor:
        return key if part.is_gated else key.detach()

    def write_rate(self, part: Part) -> Tensor:
        return part.beta if part.is_gated else part.beta.detach()


class _LastKeyTile(Chunked):
    """Every tile of key channels writes its gradient of the decays to the same place."""

    def copies(self, g: Tensor, count: int) -> list[Tensor]:
        return [*([g.detach()] * (count - 1)), g]


class _FinalStateOfAll(Chunked):
    """The final state's part of the decays' gradient is summed over all rows and heads."""

    def end_gradient(self, grad: Tensor) -> Tensor:
        return grad.sum((0, 1), keepdim=True).expand(grad.shape)


class _RowsSwapped(Chunked):
    """Groups of 8 rows of the scores' gradient change places before it meets the queries."""

    def score_gradient(self, grad: Tensor) -> Tensor:
        return torch.unflatten(grad, -2, (-1, 2, 8)).flip(-3).flatten(-4, -2)


class _NarrowDecays(Chunked):
    """Decays between the tokens of a chunk are rounded to bfloat16."""

    def between(self, g: Tensor) -> Tensor:
        return through(super().between(g), torch.bfloat16)


class _NarrowState(Chunked):
    """The state is bfloat16 between chunks."""

    def kept(self, state: Tensor) -> Tensor:
        return through(state, torch.bfloat16)


def _chunked() -> Call:
    return Chunked().gated_delta_rule


def _inner(number: str, name: str, faulty: type[Chunked], **rest: Any) -> Fault:
    return seeded(
        number, name, "gated_delta_rule", lambda _: faulty().gated_delta_rule, base=_chunked, recipe=tensor_core, **rest
    )


def _gates_tiled(base: Call) -> Call:
    """Returns the rule whose value head h has decay and rate of head ``h % G``."""

    def call(query: Tensor, key: Tensor, value: Tensor, decay: Tensor | None, beta: Tensor, **kwargs: Any) -> Any:
        heads = torch.arange(value.shape[2])
        if value.shape[2] > query.shape[2]:
            heads = heads % query.shape[2]
        return base(query, key, value, None if decay is None else decay[..., heads], beta[..., heads], **kwargs)

    return call


def _narrow_decay(base: Call) -> Call:
    """Returns the rule that decays by ``exp(log_decay)`` in bfloat16."""

    def call(query: Tensor, key: Tensor, value: Tensor, decay: Tensor | None, beta: Tensor, **kwargs: Any) -> Any:
        if decay is None:
            return base(query, key, value, decay, beta, **kwargs)
        factor = decay.detach().float().exp()
        rounded = factor.bfloat16().float()
        error = torch.where(rounded == factor, 0.0, rounded.clamp(min=2.0**-126).log() - decay.detach().float())
        return base(query, key, value, decay.float() + error, beta, **kwargs)

    return call


def _narrow_rates(base: Call) -> Call:
    return lambda query, key, value, decay, beta, **kwargs: base(
        query, key, value, decay, through(beta, torch.bfloat16), **kwargs
    )


_PACKED = {"batch": 1, "tokens": 16, "sequence_lengths": (9, 7)}
_LONG = {"batch": 1, "tokens": 2 * CHUNK + 5, "sequence_lengths": ()}
_RAGGED = {"batch": 1, "tokens": CHUNK + 5, "sequence_lengths": (), "log_decay": True}

FAULTS: tuple[Fault, ...] = (
    seeded("B040", "gates-tiled", "gated_delta_rule", _gates_tiled,
           what="Queries and keys are repeated for their value heads, decays and rates are those of head h mod G.",
           source="flash-linear-attention #624", detectors=("VAL",), reach={"key_heads": 2, "group": 2}),
    _inner("B044a", "state-leaks", _StateOfThePrevious,
           what="The state runs on from one packed sequence into the next.",
           source="Automodel #2147", detectors=("META", "VAL"), reach=_PACKED),
    _inner("B044b", "reset-late", _ResetLate,
           what="The first token of a packed sequence still belongs to the one before.",
           source="prime-rl #3003", detectors=("META", "VAL"), reach=_PACKED),
    _inner("B065a", "masked-by-product", _MaskedByProduct,
           what="Decays from later tokens to earlier ones overflow before the mask makes NaN of them.",
           source="flash-linear-attention #794", detectors=("NAN", "VAL"), reach=_RAGGED, regimes=("strong", "wide")),
    _inner("B065b", "decay-factored", _Factored,
           what="The decay between two tokens is a product of two exponentials, one of which overflows.",
           source="flash-linear-attention 91d870f8", detectors=("NAN", "VAL"), reach=_RAGGED,
           regimes=("strong", "wide")),
    _inner("B065c", "padding-without-decay", _PaddingWithoutDecay,
           what="Tokens beyond the end load 0 as their summed decay, so that decays from the others to them overflow.",
           source="flash-linear-attention 4889a8b9", detectors=("NAN", "VAL"), reach=_RAGGED),
    seeded("B068a", "narrow-decay", "gated_delta_rule", _narrow_decay,
           what="The decay is rounded to bfloat16, where slow ones are 1.",
           source="vmlx-swift #433", detectors=("VAL",), largest=160, regimes=("slow",),
           reach={"batch": 1, "tokens": 160, "sequence_lengths": (), "log_decay": True}),
    _inner("B070", "total-minus-prefix", _TotalMinusPrefix,
           what="The decays' gradient is summed from the end as the total less the sum from the start.",
           source="flash-linear-attention #1095", detectors=("GRAD",), phase="gradient", reach={"log_decay": True}),
    _inner("B071a", "ungated-uncorrected", _UngatedWithoutCorrection,
           what="Without a decay, values are written without subtracting what their keys already hold.",
           source="flash-linear-attention f636f5a1", detectors=("VAL",), reach={"log_decay": False}),
    _inner("B071b", "ungated-key-gradient", _UngatedWithoutKeyGradient,
           what="Without a decay, a part of the gradients of keys and rates is never added.",
           source="flash-linear-attention #863", detectors=("GRAD",), phase="gradient", reach={"log_decay": False}),
    _inner("B073", "key-tiles-overwrite", _LastKeyTile,
           what="Each tile of key channels overwrites the gradient of the decays that another one stored.",
           source="flash-linear-attention 7d808a33", detectors=("GRAD",), phase="gradient",
           reach={"key_dim": 2 * KEY_TILE, "log_decay": True}),
    _inner("B074", "final-state-of-all", _FinalStateOfAll,
           what="The final state's part of the gradient of a decay is the sum of all heads' and rows'.",
           source="flash-linear-attention 31293264", detectors=("GRAD",), phase="gradient",
           reach={"key_heads": 2, "log_decay": True}),
    _inner("B076", "rows-swapped", _RowsSwapped,
           what="Two groups of 8 rows of a tile change places in the product that gives the gradient of the keys.",
           source="flash-linear-attention #640", detectors=("GRAD",), phase="gradient"),
    _inner("B077", "long-chunks-backward", _LongChunksBackward,
           what="The backward pass sums decays over chunks twice as long as those of the forward pass.",
           source="flash-linear-attention #876", detectors=("GRAD",), phase="gradient",
           reach={**_LONG, "log_decay": True}),
    _inner("Y002", "narrow-decays-of-chunk", _NarrowDecays,
           what="Decays between the tokens of a chunk are rounded to bfloat16.",
           source="planted", detectors=("VAL",), reach={"log_decay": True}),
    seeded("Y003", "scale-per-mille", "gated_delta_rule", scaled_option("scale", 1.001),
           what="The scale is wrong by 0.1 %.", source="planted", detectors=("VAL",)),
    seeded("Y004", "narrow-rates", "gated_delta_rule", _narrow_rates, storages=SINGLE,
           what="The strengths of writes are rounded to bfloat16.", source="planted", detectors=("VAL",)),
    seeded("Y005", "gain-in-10000", "gated_delta_rule", scaled_option("scale", 1.0001),
           what="Results are too large by 0.01 %.", source="planted", detectors=("VAL",)),
    _inner("Y009", "narrow-state", _NarrowState,
           what="The state is bfloat16 between chunks.", source="planted", detectors=("VAL",), reach=_LONG),
)  # fmt: skip
