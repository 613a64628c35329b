import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.training.schedule import ScheduleSpec, factor, warmup_steps

KINDS = ("cosine", "linear", "constant")


def test_linear_by_hand() -> None:
    spec = ScheduleSpec(kind="linear", warmup=2, final=0)
    assert [factor(spec, step, 6) for step in range(6)] == [0.5, 1, 1, 0.75, 0.5, 0.25]


def test_cosine_is_half_way_down_in_the_middle() -> None:
    spec = ScheduleSpec(kind="cosine", warmup=0, final=0.2)
    assert factor(spec, 50, 100) == pytest.approx(0.6)
    assert factor(spec, 25, 100) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


def test_constant_stays_at_the_peak() -> None:
    spec = ScheduleSpec(kind="constant", warmup=0.5, final=0.1)
    assert [factor(spec, step, 4) for step in range(4)] == [0.5, 1, 1, 1]


@pytest.mark.parametrize(("warmup", "expected"), [(0, 0), (0.1, 20), (30, 30), (1000, 200)])
def test_warmup_is_steps_or_a_share(warmup: float, expected: int) -> None:
    assert warmup_steps(ScheduleSpec(warmup=warmup), 200) == expected


@given(
    kind=st.sampled_from(KINDS),
    warmup=st.floats(0, 50),
    final=st.floats(0, 1),
    total=st.integers(1, 200),
)
def test_factors_are_positive_rise_once_and_never_pass_the_peak(
    kind: str, warmup: float, final: float, total: int
) -> None:
    spec = ScheduleSpec.model_validate({"kind": kind, "warmup": warmup, "final": final})
    factors = [factor(spec, step, total) for step in range(total)]
    top = max(warmup_steps(spec, total) - 1, 0)
    assert all(0 < f <= 1 for f in factors[:-1] or [1])
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[-1] >= (final if kind != "constant" and total > top + 1 else 0)
