"""Prompts that begin alike share one prefill.

Many questions about one image, or the rounds of one conversation with its reference answers, have
most of their tokens in common. Their longest common beginning (the stem) is run once; each prompt
is a branch: it takes the keys and values of the stem's first ``cut`` tokens and adds its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Stem:
    """A group of prompts and what they share with the longest of them.

    Attributes:
        prompt: index of the prompt whose beginning is run.
        members: indices of all prompts of the group, ``prompt`` among them.
        cuts: for each member how many of its tokens are taken from the stem: at least one less
            than its length, since the logits of its last token are wanted.
    """

    prompt: int
    members: tuple[int, ...]
    cuts: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the stem that have to be run."""
        return max(self.cuts)


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning of two sequences."""
    limit = min(len(first), len(second))
    if first[:limit] == second[:limit]:
        return limit
    return next(at for at in range(limit) if first[at] != second[at])


def plan_stems(
    keys: Sequence[tuple[int, ...]], *, share: float = 0.5, limit: int = 64
) -> list[Stem]:
    """Group prompts by what they have in common.

    Neighbours in lexicographic order stand in one group where they share at least ``share`` of
    the longer one. Keys (1, 2, 3, 4), (1, 2, 3, 5) and (7, 8) make two stems: one of the first two,
    with cuts 3 and 3, and one of the last alone, with cut 1.

    Args:
        keys: prompts as sequences of numbers; equal beginnings may be shared.
        share: least part of the longer of two neighbours that they have in common.
        limit: most prompts in a group.

    Returns:
        Stems in which each index of ``keys`` occurs exactly once.
    """
    order = sorted(range(len(keys)), key=lambda index: keys[index])
    groups: list[list[int]] = [[index] for index in order[:1]]
    for before, index in pairwise(order):
        alike = common(keys[before], keys[index])
        longer = max(len(keys[before]), len(keys[index]))
        if alike > 0 and alike >= share * longer and len(groups[-1]) < limit:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [_stem(keys, group) for group in groups]


def _stem(keys: Sequence[tuple[int, ...]], group: Sequence[int]) -> Stem:
    longest = max(group, key=lambda index: len(keys[index]))
    cuts = (min(common(keys[longest], keys[index]), len(keys[index]) - 1) for index in group)
    return Stem(longest, tuple(group), tuple(cuts))


def batch_stems(stems: Sequence[Stem], lengths: Sequence[int], budget: int) -> list[list[Stem]]:
    """Stems of similar length put together while rows x longest prompt stays within ``budget``.

    Args:
        stems: what ``plan_stems`` gave.
        lengths: tokens of each prompt with the room for its answer.
        budget: padded tokens of a batch; a single stem may exceed it.
    """
    batches: list[list[Stem]] = []
    rows = 0
    for stem in sorted(stems, key=lambda stem: lengths[stem.prompt]):
        rows += len(stem.members)
        if not batches or rows * lengths[stem.prompt] > budget:
            batches.append([])
            rows = len(stem.members)
        batches[-1].append(stem)
    return batches
