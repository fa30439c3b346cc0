"""The conventions of neighbours, each found by the testbench itself when its adapter is left out."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.cases import case_from_data
from harness.inprocess import Here
from harness.records import Verdict
from harness.verify import Settings, verify
from optimized.candidate import Candidate, Recipe
from tests.peers import peer
from tests.peers.transformers_models import model
from tests.peers.transformers_parts import norm, rope_deepseek_v3
from tests.peers.visibility import rows_with_keys, visible

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)

ATTENTION: dict[str, Any] = {
    "op": "attention", "batch": 2, "query_tokens": 9, "key_tokens": 9, "key_heads": 1, "group": 2, "head_dim": 8,
    "value_dim": 8, "window_left": 2, "window_right": 0, "seed": 3,
}  # fmt: skip
HIDDEN = {**ATTENTION, "window_left": None, "window_right": None, "query_tokens": 3, "key_tokens": 3, "key_mask": True}
RULE = {"op": "gated_delta_rule", "batch": 1, "tokens": 12, "key_heads": 2, "group": 1, "key_dim": 8, "value_dim": 8}


def verdict(call: Callable[..., Any], data: dict[str, Any], recipe: Recipe) -> Verdict:
    """Returns what the testbench says of a call on one case."""
    case = case_from_data({**data, "dtype": recipe.storage})
    candidate = Candidate(name="peer", op=case.op, load=lambda: call, recipe=recipe)
    with Here(candidate, "cpu") as worker:
        (record,) = verify(case, [candidate], worker, Settings(relations="none"))
    return record.verdict


def hf_mask(query: Tensor, sliding_window: int) -> Tensor:
    """Returns the mask of a causal sliding window as transformers counts it: with the token itself."""
    places = torch.arange(query.shape[1])
    distance = places[:, None] - places[None]
    return ((distance >= 0) & (distance < sliding_window))[None, None]


def eager(mask_of: Callable[..., Tensor | None], *, hides: bool, lowest: float | None = None) -> Callable[..., Any]:
    """Returns eager attention, as transformers has it, or with -inf for what is hidden, as d9d has it."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float, **options: Any) -> Any:
        seen = mask_of(query, key, options["window"], options.get("key_mask"))
        q, k, v = (item.transpose(1, 2) for item in (query, key, value))
        groups = q.shape[1] // k.shape[1]
        scores = q @ k.repeat_interleave(groups, 1).mT * scale
        if seen is not None:
            fill = torch.finfo(query.dtype).min if lowest is None else lowest
            scores = scores + torch.zeros(()).masked_fill(~seen, fill)
        out = (scores.softmax(-1) @ v.repeat_interleave(groups, 1)).transpose(1, 2)
        return (rows_with_keys(out, seen) if hides else out), None

    return attention


@pytest.mark.parametrize(("extra", "is_right"), [(1, True), (0, False)])
def test_a_sliding_window_that_counts_the_token_itself_is_found(extra: int, *, is_right: bool) -> None:
    call = eager(lambda query, _key, window, _mask: hf_mask(query, window[0] + extra), hides=True)
    assert (verdict(call, ATTENTION, peer.widened("float32")) is Verdict.PASS) is is_right


def case_with_a_hidden_row() -> dict[str, Any]:
    """Returns a case in which a batch row hides all its keys."""
    for seed in range(100):
        case = case_from_data({**HIDDEN, "seed": seed})
        from harness.ops import operation

        if bool((~operation("attention").inputs(case).tensors["key_mask"]).all(1).any()):
            return {**HIDDEN, "seed": seed}
    raise AssertionError("no such case")


@pytest.mark.parametrize("lowest", [None, -torch.inf], ids=["mean of all values", "not a number"])
@pytest.mark.parametrize("hides", [True, False])
def test_what_a_row_without_keys_gives_is_found(lowest: float | None, *, hides: bool) -> None:
    call = eager(visible, hides=hides, lowest=lowest)
    found = verdict(call, case_with_a_hidden_row(), peer.widened("float32"))
    # Zeros in place of NaN do not make its gradient 0: only the form with the lowest number can be put right so.
    assert (found is Verdict.PASS) is (hides and lowest is None)


@pytest.mark.parametrize("is_swapped", [False, True])
def test_beta_and_decay_by_position_where_the_other_comes_first_are_found(*, is_swapped: bool) -> None:
    def rule(
        query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, scale: float, **_: Any
    ) -> Any:
        first, second = (log_decay, beta) if is_swapped else (beta, log_decay)
        return recurrence(query, key, value, first, second, scale)

    def recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, scale: float) -> Any:
        """The recurrence with fla's naive order of arguments: beta, then the decay."""
        state, outs = torch.zeros(*v.shape[:1], v.shape[2], k.shape[-1], v.shape[-1]), []
        for t in range(q.shape[1]):
            state = state * g[:, t, :, None, None].exp()
            delta = (v[:, t] - (state * k[:, t, ..., None]).sum(-2)) * beta[:, t, :, None]
            state = state + k[:, t, ..., None] * delta[..., None, :]
            outs.append((state * (q[:, t] * scale)[..., None]).sum(-2))
        return torch.stack(outs, 1), state

    assert (verdict(rule, RULE, peer.widened("float32")) is Verdict.PASS) is not is_swapped


@needs_transformers
@pytest.mark.parametrize("is_put_back", [True, False])
def test_rotated_pairs_left_in_the_order_of_halves_are_found(*, is_put_back: bool) -> None:
    def left_apart(x: Tensor, cos: Tensor, sin: Tensor, *, style: str) -> Tensor:
        del style
        once = [torch.cat((table[..., ::2], table[..., ::2]), -1) for table in (cos, sin)]
        out: Tensor = model("deepseek_v3").apply_rotary_pos_emb_interleave(x, x, *once, unsqueeze_dim=2)[0]
        return out

    case = {"op": "rope", "batch": 1, "tokens": 5, "heads": 2, "width": 8, "style": "interleaved"}
    call = rope_deepseek_v3 if is_put_back else left_apart
    assert (verdict(call, case, peer.stored("float32")) is Verdict.PASS) is is_put_back


@needs_transformers
@pytest.mark.parametrize(
    ("name", "class_name", "is_once"),
    [("qwen3", "Qwen3RMSNorm", False), ("deepseek_v3", "DeepseekV3RMSNorm", False), ("gpt_oss", "GptOssRMSNorm", True)],
)
def test_a_norm_that_rounds_before_its_weight_is_found(name: str, class_name: str, *, is_once: bool) -> None:
    case = {"op": "rms_norm", "batch": 2, "tokens": 20, "channels": 40}
    found = verdict(norm(name, class_name), case, peer.widened("bfloat16"))
    assert (found is Verdict.PASS) is is_once
