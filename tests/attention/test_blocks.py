"""Blocks, packed spans and masks all say the same: exactly what the rule lets each query see."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.attention.layouts import RULES, Case, cases, make_rule, plan, splits_image
from tests.oracles.attention import groups
from torch import Tensor

from triptych.attention import Rule, intervals
from triptych.attention import blocks as sizes
from triptych.attention.blocks import Block, cut, plan_blocks, tiles, width
from triptych.attention.intervals import Intervals, plan_intervals
from triptych.attention.order import order_rows
from triptych.attention.packing import pack

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9))


def indices(spans: tuple[tuple[int, int], ...]) -> list[int]:
    return [index for start, stop in spans for index in range(start, stop)]


def paint(blocks: tuple[Block, ...], keys: int) -> Tensor:
    """How often each pair (query, key) of keys is met in the text and the image group."""
    met = torch.zeros(2, keys, keys, dtype=torch.long)
    for block in blocks:
        rows = indices(block.rows)
        for row, query in enumerate(rows):
            if block.triangle:
                met[0, query, rows[: row + 1]] += 1
            if block.keeps_value:
                met[1, query, query] += 1
            for group, pieces in enumerate((block.text, block.image)):
                for piece in pieces:
                    if piece.start <= row < piece.stop:
                        met[group, query, indices(piece.keys)] += 1
    return met


def allowed(rule: Rule, case: Case, row: int) -> Tensor:
    """The same from the definition, by the kind of the key."""
    keys = case.kinds.shape[1]
    met = torch.zeros(2, keys, keys, dtype=torch.long)
    fields = [one[row].tolist() for one in (case.kinds, case.documents, case.images)]
    for query in range(keys - case.queries, keys):
        seen = groups(rule.name, rule.image_scope, query, *fields, list(range(keys)))
        for key in (key for group in seen for key in group):
            image = rule.name != "causal" and fields[0][key] == 2
            met[int(image), query, key] += 1
    return met


@settings(max_examples=120)
@given(case=cases(chunked=True), choice=st.sampled_from(RULES), limits=SIZES)
def test_blocks_meet_each_visible_pair_once(
    case: Case, choice: tuple[str, str], limits: tuple[int, int, int, int]
) -> None:
    rule = make_rule(*choice)
    assume(rule.image_scope == "self" or not splits_image(case))
    first = case.kinds.shape[1] - case.queries
    names = ("TILE_KEYS", "JOINED_KEYS", "BLOCK_ROWS", "LONGEST_BLOCK")
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in zip(names, limits, strict=True):
            patch.setattr(sizes, name, limit)
        order = order_rows(rule, plan(rule, case).tokens)
        for row in range(len(order)):
            blocks = plan_blocks(rule, order.row(row), first)
            assert torch.equal(paint(blocks, case.kinds.shape[1]), allowed(rule, case, row))


@settings(max_examples=120)
@given(case=cases(chunked=True), choice=st.sampled_from(RULES))
def test_masks_are_the_definition(case: Case, choice: tuple[str, str]) -> None:
    rule = make_rule(*choice)
    assume(rule.image_scope == "self" or not splits_image(case))
    masks = rule.masks(plan(rule, case).tokens, case.queries).long().sum(0)
    for row in range(len(case.kinds)):
        wanted = allowed(rule, case, row).sum(0)[case.kinds.shape[1] - case.queries :]
        assert torch.equal(masks[row], wanted)


@settings(max_examples=120)
@given(case=cases(chunked=True), choice=st.sampled_from(RULES), limits=SIZES)
def test_intervals_meet_each_visible_pair_once(
    case: Case, choice: tuple[str, str], limits: tuple[int, int, int, int]
) -> None:
    rule = make_rule(*choice)
    assume(rule.image_scope == "self" or not splits_image(case))
    keys = case.kinds.shape[1]
    first = keys - case.queries
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in zip(
            ("BLOCK", "TILE", "_SHORT_RUN", "_WASTED_PAIRS"), limits, strict=True
        ):
            patch.setattr(intervals, name, limit)
        order = order_rows(rule, plan(rule, case).tokens)
        plans = plan_intervals(rule, order, keys, case.queries)
    for row in range(len(case.kinds)):
        met = paint_intervals(plans, row, first, keys, limits)
        assert torch.equal(met, allowed(rule, case, row))


def paint_intervals(
    plans: Intervals, row: int, first: int, keys: int, limits: tuple[int, ...]
) -> Tensor:
    """The same as ``paint``; no block or tile is too large, and those that stand together do."""
    met = torch.zeros(2, keys, keys, dtype=torch.long)
    bounds = slice(plans.row_blocks[row], plans.row_blocks[row + 1])
    for _, begin, end, *rest in plans.blocks[bounds].tolist():
        assert 0 < end - begin <= limits[0]
        tile_begin, tile_end, key_begin = rest[:2], rest[2:4], rest[4:]
        for place, *seen, own in plans.queries[begin:end].tolist():
            if own >= 0:
                assert own == place + first
                met[1, place + first, own] += 1
            for group in range(2):
                for start, stop, together in plans.tiles[
                    tile_begin[group] : tile_end[group]
                ].tolist():
                    assert 0 < stop - start <= limits[1]
                    found = plans.keys[key_begin[group] :][start:stop].tolist()
                    assert together < 0 or found == list(range(together, together + stop - start))
                    for key in range(max(start, seen[group]), min(stop, seen[2 + group])):
                        met[group, place + first, found[key - start]] += 1
    return met


@settings(max_examples=60)
@given(case=cases(chunked=True))
def test_packed_spans_are_the_masks(case: Case) -> None:
    rule = make_rule("mmca")
    tokens = plan(rule, case).tokens
    keys = case.kinds.shape[1]
    packed = pack(rule, order_rows(rule, tokens), keys, case.queries, torch.device("cpu"))
    masks = rule.masks(tokens, case.queries)
    for row in range(len(case.kinds)):
        for slot, query in enumerate(packed.text_queries[row].tolist()):
            if query < 0:
                continue
            for group, (found, spans) in enumerate(
                [(packed.text_keys, packed.text_spans), (packed.image_keys, packed.image_spans)]
            ):
                start, stop = spans[row, slot].tolist()
                seen = sorted(found[row, start:stop].tolist())
                assert seen == masks[group, row, query].nonzero().flatten().tolist()


def test_eight_images_need_few_calls_and_few_pairs() -> None:
    """The layout of the benchmark's bar: 8 images of 576 tokens and 256 of text."""
    kinds = torch.tensor([[1] * 28 + ([2] * 576 + [1] * 28) * 8 + [1] * 4])
    rule = make_rule("mmca")
    tokens = plan(rule, Case(kinds, kinds * 0, kinds * 0, kinds.shape[1], 1, 1)).tokens
    blocks = plan_blocks(rule, order_rows(rule, tokens).row(0), 0)
    pairs = sum(block.pairs for block in blocks)
    assert pairs < 0.055 * kinds.shape[1] ** 2 / 2
    assert sum(block.calls for block in blocks) <= 16


@given(
    spans=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=5),
    bounds=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_cut_and_tiles_keep_the_tokens(
    spans: list[tuple[int, int]], bounds: tuple[int, int]
) -> None:
    chosen = [(start, start + size) for start, size in spans]
    start, stop = min(bounds), max(bounds)
    assert indices(tuple(cut(chosen, start, stop))) == indices(tuple(chosen))[start:stop]
    made = tiles(chosen)
    assert [i for tile in made for i in indices(tile)] == indices(tuple(chosen))
    assert all(0 < width(tile) <= sizes.TILE_KEYS for tile in made)
