"""The growing cache does what transformers' own does."""

import torch
from torch import Tensor
from transformers import DynamicCache

from triptych.inference.growing import GrowingCache


def states(count: int, rows: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 3, count, 4), torch.randn(rows, 3, count, 6)


def test_it_holds_what_a_dynamic_cache_holds() -> None:
    found, wanted = GrowingCache(), DynamicCache()

    def append(count: int, rows: int = 2) -> None:
        for layer in range(2):
            keys, values = states(count, rows)
            for one, other in zip(
                found.update(keys, values, layer), wanted.update(keys, values, layer), strict=True
            ):
                assert torch.equal(one, other)

    append(5)
    append(1)
    for cache in (found, wanted):
        cache.crop(-3)
    append(2)
    for cache in (found, wanted):
        cache.batch_select_indices(torch.tensor([1, 0, 1]))
    append(400, 3)
    for cache in (found, wanted):
        cache.reorder_cache(torch.tensor([2, 1, 0]))
    append(1, 3)
    for cache in (found, wanted):
        cache.batch_select_indices(torch.tensor([1]))
    append(1, 1)
    kept = found.get_seq_length()
    for cache in (found, wanted):
        cache.crop(-kept)
    assert found.get_seq_length() == wanted.get_seq_length() == 0
    append(3, 1)


def test_a_token_copies_nothing_and_an_image_is_written_in_place() -> None:
    cache = GrowingCache()
    keys, values = states(4)
    to_keys, to_values = cache.extend(0, keys[:, :, :0], values[:, :, :0], 4, ahead=1000)
    to_keys.copy_(keys)
    to_values.copy_(values)
    before = cache.layers[0].keys.data_ptr()
    for _ in range(1000):
        held, _ = cache.update(*states(1), 0)
    assert held.data_ptr() == before
    assert torch.equal(held[:, :, :4], keys)
    assert cache.get_seq_length() == 1004
