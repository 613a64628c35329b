"""Every prompt is in one stem, and what it takes from its stem is its own beginning."""

from hypothesis import given
from hypothesis import strategies as st

from triptych.inference.stems import batch_stems, common, plan_stems

PROMPTS = st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=12).map(tuple), max_size=25)


@given(PROMPTS, st.integers(1, 6))
def test_cuts_are_common_beginnings(keys: list[tuple[int, ...]], limit: int) -> None:
    stems = plan_stems(keys, limit=limit)
    assert sorted(index for stem in stems for index in stem.members) == list(range(len(keys)))
    for stem in stems:
        assert stem.prompt in stem.members
        assert len(stem.members) <= limit
        for index, cut in zip(stem.members, stem.cuts, strict=True):
            assert 1 <= cut < len(keys[index])
            assert cut <= stem.length
            assert keys[index][:cut] == keys[stem.prompt][:cut]


@given(PROMPTS, st.integers(1, 60))
def test_batches_keep_to_the_budget(keys: list[tuple[int, ...]], budget: int) -> None:
    lengths = [len(key) + 3 for key in keys]
    stems = plan_stems(keys)
    batches = batch_stems(stems, lengths, budget)
    assert sorted(s.prompt for batch in batches for s in batch) == sorted(s.prompt for s in stems)
    for batch in batches:
        rows = sum(len(stem.members) for stem in batch)
        longest = max(lengths[stem.prompt] for stem in batch)
        assert len(batch) == 1 or rows * longest <= budget


def test_rounds_of_a_conversation_are_one_stem() -> None:
    rounds = [(1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7)]
    (stem,) = plan_stems(rounds)
    assert dict(zip(stem.members, stem.cuts, strict=True)) == {0: 2, 1: 4, 2: 6}
    assert stem.length == 6


def test_strangers_do_not_share() -> None:
    assert len(plan_stems([(1, 2, 3, 4), (2, 2, 3, 4), (1, 5, 5, 5, 5)])) == 3
    assert common((1, 2, 3), (1, 2, 4)) == 2
