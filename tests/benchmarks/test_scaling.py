import pytest

from tests.benchmarks.scaling import peak_gb


@pytest.mark.slow
def test_memory_of_attention_does_not_grow_with_the_pairs() -> None:
    """Four times as many pairs of query and key: whole scores would take 0.5 GB and then 2.1 GB for each tensor."""
    short, long = (peak_gb(tokens=tokens, backward=True) for tokens in (8192, 16384))
    assert long - short < 0.25
