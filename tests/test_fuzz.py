"""A moment of what `make soak` does for long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.soak.fuzz import FUZZED

EXAMPLES = 40


@pytest.mark.parametrize("kind", FUZZED)
def test_hostile_input_is_taken_right_or_refused_with_a_documented_error(kind: str) -> None:
    @settings(
        deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.data())
    def fuzzed(data: st.DataObject) -> None:
        case: Any = data.draw(FUZZED[kind].inputs)
        FUZZED[kind].check(case)

    fuzzed()
