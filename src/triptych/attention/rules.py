"""Attention rules: which keys a query may see, and in which softmax.

A rule is a list of groups. Each group is one softmax over the keys that its predicate lets a
query see; the outputs of the groups are added, and an empty group adds 0. Multi-modal causal
attention (MMCA) is from DeepSpeed-VisualChat (arXiv 2309.14327): a text token reads the text
before it and the images before it in two softmaxes, and an image token keeps its own value.

Shape suffixes: B batch, S sequence, Q queries, K keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, cast

import torch
from torch import Tensor

from triptych.errors import RecipeError

RuleName = Literal["causal", "mmca", "mmca_as_coded"]
ImageScope = Literal["self", "image"]


class Kind(IntEnum):
    """What a token is."""

    PAD = 0
    TEXT = 1
    IMAGE = 2


@dataclass(frozen=True)
class Tokens:
    """What a rule may know of tokens; all four broadcast against each other.

    Attributes:
        kinds: a ``Kind`` each.
        places: place in the sequence; a token is earlier than another if its place is smaller.
        documents: tokens of different documents never see each other.
        images: which image a visual token belongs to.
    """

    kinds: Tensor
    places: Tensor
    documents: Tensor
    images: Tensor

    @property
    def text(self) -> Tensor:
        """Where there is text."""
        return self.kinds == Kind.TEXT

    @property
    def image(self) -> Tensor:
        """Where there is a visual token."""
        return self.kinds == Kind.IMAGE

    def map(self, change: Callable[[Tensor], Tensor]) -> "Tokens":
        """Apply ``change`` to each field."""
        return Tokens(
            change(self.kinds), change(self.places), change(self.documents), change(self.images)
        )


Visibility = Callable[[Tokens, Tokens], Tensor]


@dataclass(frozen=True)
class Group:
    """One softmax.

    Attributes:
        name: for messages and figures.
        sees: bool, from queries (B, Q, 1) and keys (B, 1, K): whether the query sees the key.
    """

    name: str
    sees: Visibility


@dataclass(frozen=True)
class Rule:
    """An attention rule.

    Attributes:
        name: as it stands in recipes and checkpoints.
        image_scope: ``self``: an image token sees itself; ``image``: it sees its own image.
        groups: the softmaxes whose outputs are added.
    """

    name: RuleName
    image_scope: ImageScope
    groups: tuple[Group, ...]

    @property
    def images_read_text(self) -> bool:
        """Whether image rows depend on the text before them."""
        return self.name != "mmca"

    def masks(self, tokens: Tokens, queries: int) -> Tensor:
        """What the last ``queries`` of ``tokens`` (B, K) see: bool (groups, B, Q, K)."""
        asking = tokens.map(lambda field: field[:, field.shape[1] - queries :, None])
        keys = tokens.map(lambda field: field[:, None, :])
        return torch.stack([group.sees(asking, keys) for group in self.groups])


def make_rule(name: str, image_scope: str = "self") -> Rule:
    """Make the rule of this name.

    Args:
        name: ``causal``, ``mmca`` (the paper's rule), or ``mmca_as_coded`` (image rows also read
            earlier text, as the published code does; without its leak of later images).
        image_scope: what else image rows see: ``self`` or their whole own ``image``.

    Raises:
        RecipeError: there is no such rule or scope, or the rule has no scope to choose.
    """
    if name not in ("causal", "mmca", "mmca_as_coded"):
        raise RecipeError(f"attention is {name!r}, expected 'causal', 'mmca' or 'mmca_as_coded'")
    if image_scope not in ("self", "image"):
        raise RecipeError(f"image_scope is {image_scope!r}, expected 'self' or 'image'")
    if name == "causal":
        if image_scope != "self":
            raise RecipeError("image_scope 'image' needs attention 'mmca' or 'mmca_as_coded'")
        return Rule("causal", "self", (Group("all", _earlier),))
    images = _images_whole if image_scope == "image" else _images_self
    text = _text_to_all if name == "mmca_as_coded" else _text_to_text
    return Rule(
        cast(RuleName, name),
        cast(ImageScope, image_scope),
        (Group("text", text), Group("image", images)),
    )


def make_tokens(
    kinds: Tensor,
    *,
    documents: Tensor | None = None,
    images: Tensor | None = None,
    places: Tensor | None = None,
) -> Tokens:
    """Fill in what is not given.

    Args:
        kinds: (B, S), a ``Kind`` each.
        documents: (B, S); default: one document.
        images: (B, S); default: each unbroken run of visual tokens is an image.
        places: (B, S); default: the order in which the tokens stand.
    """
    if images is None:
        image = kinds == Kind.IMAGE
        before = torch.nn.functional.pad(image, (1, 0))[:, :-1]
        images = (image & ~before).cumsum(1)
    if places is None:
        places = torch.arange(kinds.shape[1], device=kinds.device).expand(kinds.shape)
    return Tokens(
        kinds, places, torch.zeros_like(kinds) if documents is None else documents, images
    )


def _reachable(query: Tokens, key: Tokens) -> Tensor:
    """Earlier or itself, in the same document."""
    return (key.places <= query.places) & (key.documents == query.documents)


def _earlier(query: Tokens, key: Tokens) -> Tensor:
    return _reachable(query, key) & (key.kinds != Kind.PAD) & (query.kinds != Kind.PAD)


def _text_to_text(query: Tokens, key: Tokens) -> Tensor:
    return _reachable(query, key) & query.text & key.text


def _text_to_all(query: Tokens, key: Tokens) -> Tensor:
    return _earlier(query, key) & key.text


def _images_self(query: Tokens, key: Tokens) -> Tensor:
    to_text = query.text & _reachable(query, key)
    return key.image & (to_text | (query.image & (query.places == key.places)))


def _images_whole(query: Tokens, key: Tokens) -> Tensor:
    same = (query.images == key.images) & (query.documents == key.documents)
    to_text = query.text & _reachable(query, key)
    return key.image & (to_text | (query.image & same))
