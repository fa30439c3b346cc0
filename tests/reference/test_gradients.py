"""Every operation and layer differentiates as central differences say."""

import pytest

from tests.reference.agree import assert_gradcheck
from tests.reference.calls import CALLS


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_those_of_central_differences(name: str) -> None:
    assert_gradcheck(CALLS[name].function, CALLS[name].inputs, condition=CALLS[name].condition)
