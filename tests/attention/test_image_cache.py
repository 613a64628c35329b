"""The cache of images by itself, and the rotation of its keys."""

import pytest
import torch
from torch import Tensor

from triptych.attention.image_cache import (
    ImageCache,
    ImageEntry,
    check_context_free,
    split_entries,
)
from triptych.attention.rotation import LayerRotation, Rotation, Style
from triptych.attention.rules import make_rule
from triptych.errors import RecipeError


def entry(tokens: int) -> ImageEntry:
    """Two layers, two heads of width 4: 64 * tokens * 2 bytes."""
    one = torch.zeros(2, tokens, 4)
    return ImageEntry((one, one.clone()), (one.clone(), one.clone()))


def test_the_least_lately_used_image_goes_first() -> None:
    cache = ImageCache(3 * entry(1).size_bytes)
    for name in "abc":
        cache.keep("m", name, entry(1))
    assert cache.find("m", "a") is not None
    cache.keep("m", "d", entry(1))
    assert [cache.knows("m", name) for name in "abcd"] == [True, False, True, True]
    assert cache.find("m", "b") is None
    assert (cache.hits, cache.misses, cache.evicted) == (1, 1, 1)
    cache.keep("m", "e", entry(2))
    assert [cache.knows("m", name) for name in "acde"] == [False, False, True, True]
    assert cache.size_bytes == cache.limit_bytes
    assert len(cache) == 2


def test_an_image_of_another_model_is_another_image() -> None:
    cache = ImageCache(10**6)
    cache.keep("m", "a", entry(1))
    assert cache.find("n", "a") is None
    assert cache.find("m", "a") is not None


def test_what_exceeds_the_limit_is_not_kept_and_pushes_nothing_out() -> None:
    cache = ImageCache(entry(2).size_bytes)
    cache.keep("m", "a", entry(2))
    cache.keep("m", "b", entry(3))
    assert cache.knows("m", "a")
    assert not cache.knows("m", "b")
    cache.keep("m", "a", entry(1))
    assert (len(cache), cache.size_bytes) == (1, entry(1).size_bytes)
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_entries_are_copies_of_their_part() -> None:
    keys, values = [torch.randn(2, 5, 4) for _ in range(3)], [torch.randn(2, 5, 6)] * 3
    first, second = split_entries(keys, values, [2, 3])
    assert (first.tokens, second.tokens) == (2, 3)
    assert torch.equal(second.keys[1], keys[1][:, 2:])
    assert torch.equal(first.values[2], values[2][:, :2])
    keys[1].zero_()
    assert second.keys[1].abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [("causal", "reads everything before it"), ("mmca_as_coded", "reads the text before it")],
)
def test_rules_under_which_images_depend_on_their_context_are_refused(
    name: str, reason: str
) -> None:
    with pytest.raises(RecipeError, match=f"under attention '{name}', because .*{reason}"):
        check_context_free(make_rule(name))
    check_context_free(make_rule("mmca"))
    check_context_free(make_rule("mmca", "image"))


def turned(states: Tensor, angles: Tensor, style: Style) -> Tensor:
    """Plane by plane, as numbers of the complex plane."""
    out = states.clone()
    for place, row in enumerate(angles.tolist()):
        for f, angle in enumerate(row):
            a, b = (f, f + len(row)) if style == "halves" else (2 * f, 2 * f + 1)
            point = torch.complex(states[..., place, a], states[..., place, b])
            point = point * complex(torch.polar(torch.tensor(1.0), torch.tensor(angle)))
            out[..., place, a], out[..., place, b] = point.real, point.imag
    return out


@pytest.mark.parametrize("style", ["halves", "pairs"])
@pytest.mark.parametrize("frequencies", [4, 3])
def test_rotation_by_planes(style: Style, frequencies: int) -> None:
    """With 3 frequencies of a width of 8 the last two channels stay."""
    states, angles = torch.randn(2, 5, 8), torch.randn(5, frequencies) * 3
    layers = (LayerRotation("none", 0), LayerRotation(style, 1))
    other = torch.zeros(5, 1)
    rotation = Rotation(layers, (other, angles.cos()), (other, angles.sin()))
    assert torch.equal(rotation.apply(0, states), states)
    wanted = turned(states, angles, style)
    torch.testing.assert_close(rotation.apply(1, states), wanted)
    room = torch.zeros(2, 9, 8)
    rotation.part(1, 4).write(1, states[:, 1:4], room[:, 4:7])
    torch.testing.assert_close(room[:, 4:7], wanted[:, 1:4])
    assert room[:, :4].abs().sum() == room[:, 7:].abs().sum() == 0
