"""All layers that are exchanged, by name. Nothing here loads transformers before a peer is made."""

from tests.exchange import deepseek, gpt_oss, qwen3, qwen3_5, qwen3_next
from tests.exchange.exchange import Exchange

__all__ = ["EXCHANGES"]

EXCHANGES: dict[str, Exchange] = {
    **qwen3.EXCHANGES,
    **qwen3_next.EXCHANGES,
    **qwen3_5.EXCHANGES,
    **deepseek.EXCHANGES,
    **gpt_oss.EXCHANGES,
}
