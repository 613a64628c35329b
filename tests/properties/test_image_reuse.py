"""Any layout of texts and images, in any pieces, with any limit of the cache, padded or not."""

from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.inference.reuse import close, engine_of, looked, reused, sequence, whole

from triptych.attention import ImageCache
from triptych.inference.engine import Engine
from triptych.inference.growing import GrowingCache
from triptych.inference.prefill import Known, Part, run
from triptych.inference.vision import Picture

Layout = list[int]
"""Images by number from 0, texts by their number of letters below 0."""

layouts = st.lists(st.integers(-6, 3), min_size=1, max_size=8)


@cache
def engine(scope: str) -> Engine:
    return engine_of("qwen3", scope, cache=ImageCache(10**7))


@cache
def pictures() -> list[Picture]:
    return looked(engine("self"), 0, 1, 2, 3)


def spell(scope: str, layout: Layout) -> tuple[list[int], list[Picture]]:
    texts = "colored shapes"
    parts = [texts[:-one] if one < 0 else pictures()[one] for one in layout]
    return sequence(engine(scope), parts)


@settings(deadline=None, max_examples=40)
@given(
    scope=st.sampled_from(["self", "image"]),
    pieces=st.lists(layouts, min_size=1, max_size=3),
    limit=st.sampled_from([0, 600, 10**7]),
)
def test_pieces_over_one_cache_equal_the_whole(
    scope: str, pieces: list[Layout], limit: int
) -> None:
    one = engine(scope)
    assert one.reuse is not None
    one.reuse.cache.limit_bytes = limit
    one.reuse.cache.clear()
    start, parts = 0, []
    for layout in pieces:
        ids, shown = spell(scope, layout)
        parts.append(Part(ids, start, shown))
        start += len(ids)
    places, logits, _ = reused(one, parts)
    ids = [token for part in parts for token in part.ids]
    wanted = whole(one, ids, [image for part in parts for image in part.pictures])
    close(logits, wanted[places])


@settings(deadline=None, max_examples=25)
@given(scope=st.sampled_from(["self", "image"]), rows=st.lists(layouts, min_size=2, max_size=4))
@torch.no_grad()
def test_batches_equal_one_by_one(scope: str, rows: list[Layout]) -> None:
    one = engine(scope)
    parts = [Part(ids, 0, shown) for ids, shown in (spell(scope, layout) for layout in rows)]
    cache = GrowingCache()
    step = one.prefiller.prepare(parts, cache, Known.nothing(len(rows), one.model.device))
    found = run(one.model, step, cache)
    for row, part in enumerate(parts):
        close(found[row], whole(one, part.ids, part.pictures)[-1])
