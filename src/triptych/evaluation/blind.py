"""The blind baseline: the same model and questions, with the images of other records.

What it scores is what the questions alone give away.
"""

import random
from collections.abc import Sequence

from triptych.errors import DataError


def swap_images(images: Sequence[Sequence[str]], seed: int) -> list[tuple[str, ...]]:
    """Give every record the images of another one.

    Records with the same images get the same other ones. Other images come from a record with as
    many of them where one without any image in common exists, else from all images there are.

    Args:
        images: keys of the images of each record, in order; equal keys are equal images.
        seed: of the choice.

    Returns:
        For each record as many keys as it had, none of them its own.

    Raises:
        DataError: all images of the other records are images of this one.
    """
    rng = random.Random(seed)
    groups: dict[int, list[tuple[str, ...]]] = {}
    for own in dict.fromkeys(tuple(one) for one in images):
        groups.setdefault(len(own), []).append(own)
    pool = sorted({key for own in images for key in own})
    given: dict[tuple[str, ...], tuple[str, ...]] = {(): ()}
    for size in sorted(groups):
        if size:
            given |= _swap_group(groups[size], pool, rng)
    return [given[tuple(own)] for own in images]


def _swap_group(
    sets: Sequence[tuple[str, ...]], pool: Sequence[str], rng: random.Random
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Pass sets of one size around a circle, mend where neighbours share an image."""
    order = list(sets)
    rng.shuffle(order)
    others = order[1:] + order[:1]
    for place, own in enumerate(order):
        if set(own).isdisjoint(others[place]):
            continue
        for mate in rng.sample(range(len(order)), len(order)):
            if set(own).isdisjoint(others[mate]) and set(order[mate]).isdisjoint(others[place]):
                others[place], others[mate] = others[mate], others[place]
                break
        else:
            others[place] = _draw(own, pool, rng)
    return dict(zip(order, others, strict=True))


def _draw(own: tuple[str, ...], pool: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    foreign = [key for key in pool if key not in own]
    if not foreign:
        raise DataError(
            "the blind baseline needs images of other records, but all records have the same "
            "images; judge more records, or leave it out (--no-blind)"
        )
    if len(foreign) >= len(own):
        return tuple(rng.sample(foreign, len(own)))
    return tuple(rng.choices(foreign, k=len(own)))
