"""The attention rule of a model: what its forward pass adds to the language model's arguments.

Shape suffixes: B batch, Q queries, K keys, cached ones included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from triptych.attention import Kind, Rule, make_rule, plan_attention, register_attention
from triptych.errors import RecipeError, SpanError

_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "attention"}


class RuleArguments:
    """Registers a rule that is not transformers' own, and prepares what its kernels need.

    Args:
        name: of the rule.
        image_scope: of the rule.

    Attributes:
        rule: the rule.
        implementation: its name among transformers' attention implementations; None for causal
            attention, which is left to transformers.
        by_document: the implementation that works on a packed row document by document.
    """

    def __init__(self, name: str, image_scope: str) -> None:
        self.rule: Rule = make_rule(name, image_scope)
        self.by_document = register_attention(self.rule)
        self.implementation = None if name == "causal" else self.by_document

    def check(self, language_model: PreTrainedModel) -> None:
        """Refuse a language model that would compute another attention than the rule.

        Raises:
            RecipeError: some of its layers do not go through transformers' attention interface.
        """
        if self.implementation is None:
            return
        config = language_model.config.to_dict()
        kinds = {*(config.get("layer_types") or ()), *(config.get("layers_block_type") or ())}
        others = sorted(kinds - _ATTENTION_LAYERS)
        if others or not language_model.is_backend_compatible():
            found = f"layers of kind {', '.join(others)}" if others else "attention of its own"
            raise RecipeError(
                f"attention '{self.rule.name}' cannot be computed by a language model of type "
                f"'{config['model_type']}', which has {found}; choose attention 'causal', or a "
                "language model whose layers all use transformers' attention interface"
            )

    def prepare(
        self,
        language_model: PreTrainedModel,
        given: "TokenInputs",
        queries: int,
        cache: Cache | None,
    ) -> dict[str, Any]:
        """The arguments that carry the layout of the batch to every layer.

        Raises:
            RecipeError: the language model has another attention than the rule; or it cannot
                keep the documents given apart.
            SpanError: tokens are cached, but ``kinds`` does not say what they are.
        """
        found = language_model.config._attn_implementation
        if self.implementation is None and found != self.by_document:
            if given.documents is None:
                return {}
            return _separate_by_position(language_model, given.documents, cache)
        if found not in (self.implementation, self.by_document):
            raise RecipeError(
                f"the model has attention '{self.rule.name}', but its language model was switched "
                f"to the attention implementation '{found}'"
            )
        cached = 0 if cache is None else int(cache.get_seq_length())
        kinds = given.kinds
        if kinds is None or kinds.shape[1] != cached + queries:
            count = "none" if kinds is None else str(kinds.shape[1])
            raise SpanError(
                f"attention '{self.rule.name}' needs token_kinds of all {cached + queries} tokens, "
                f"the {cached} cached ones included, found {count}; model.find_token_kinds makes "
                "them from the ids of the whole sequence"
            )
        layout = plan_attention(
            self.rule,
            kinds,
            queries,
            document_ids=given.documents,
            image_ids=given.images if self.rule.image_scope == "image" else None,
            token_places=given.places,
        )
        return {"attention_layout": layout}

    def attend_by_document(self, language_model: PreTrainedModel) -> bool:
        """Let ``by_document`` compute causal attention, unless a layer asks for what it cannot."""
        dropout = language_model.config.to_dict().get("attention_dropout")
        if dropout or _layer_kinds(language_model) - {"full_attention"}:
            return False
        language_model.set_attn_implementation(self.by_document)
        return True


@dataclass(frozen=True)
class TokenInputs:
    """What a forward pass is told of all tokens, cached ones included: (B, K) each, or None.

    Attributes:
        kinds: 0 padding, 1 text, 2 image.
        documents: documents of a packed row do not see each other.
        images: image of each visual token.
        places: the order of the tokens where they do not stand in it.
    """

    kinds: Tensor | None
    documents: Tensor | None
    images: Tensor | None
    places: Tensor | None

    def complete(
        self,
        whole: Tensor | None,
        queries: int,
        tokens_per_image: Sequence[int],
    ) -> "TokenInputs":
        """Fill in kinds where the whole sequence is at hand, and the images among the queries.

        Args:
            whole: kinds of all tokens; None when some are cached.
            queries: how many of the last tokens are new.
            tokens_per_image: of the new images.
        """
        kinds = whole if self.kinds is None else self.kinds
        images = self.images
        if images is None and kinds is not None and tokens_per_image:
            counts = torch.tensor(tokens_per_image)
            new = number_images(kinds[:, kinds.shape[1] - queries :], counts)
            images = torch.nn.functional.pad(new, (kinds.shape[1] - queries, 0))
        return TokenInputs(kinds, self.documents, images, self.places)


def _separate_by_position(
    language_model: PreTrainedModel, documents: Tensor, cache: Cache | None
) -> dict[str, Any]:
    """What makes transformers itself see that a row is packed: no mask, restarting positions.

    Its masks do so for attention layers alone; a recurrent layer would read on.
    """
    other = _layer_kinds(language_model) - {
        "full_attention",
        "sliding_attention",
        "chunked_attention",
    }
    if cache is not None or other:
        raise RecipeError(
            "document_ids need attention 'mmca' or 'mmca_as_coded' "
            + (f"in a model with {', '.join(sorted(other))} layers" if other else "over a cache")
        )
    # A cache that transformers would begin by itself hides the restarts from its masks.
    return {
        "attention_mask": None,
        "position_ids": restart_positions(documents),
        "use_cache": False,
    }


def count_positions(attention_mask: Tensor | None, documents: Tensor | None) -> Tensor | None:
    """Positions (B, S) that start at 0 on the first token kept, or with each document.

    Args:
        attention_mask: (B, S), 0 where padded, on either side.
        documents: (B, S).
    """
    if documents is not None:
        return restart_positions(documents)
    if attention_mask is None or attention_mask.dim() != 2:
        return None
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def _layer_kinds(language_model: PreTrainedModel) -> set[str]:
    return set(language_model.config.to_dict().get("layer_types") or ())


def restart_positions(documents: Tensor) -> Tensor:
    """Positions (B, S) that begin at 0 with each of the documents (B, S)."""
    places = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return places - torch.where(begins, places, 0).cummax(1).values


def begins(cache: Cache | None) -> bool:
    """Whether the tokens given are the first."""
    return cache is None or not cache.get_seq_length()


def find_kinds(input_ids: Tensor, attention_mask: Tensor | None, image_token_id: int) -> Tensor:
    """Kinds (B, K) of the tokens of whole sequences.

    Args:
        input_ids: (B, K).
        attention_mask: (B, K), 0 where padded; others than that are transformers' own, made for
            static caches, and say nothing of padding alone.
        image_token_id: the image placeholder.
    """
    kinds = torch.where(input_ids == image_token_id, int(Kind.IMAGE), int(Kind.TEXT))
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return kinds
    return kinds * (attention_mask != 0)


def number_images(kinds: Tensor, tokens_per_image: Tensor) -> Tensor:
    """Number the visual tokens of a batch by image, so that images that touch are told apart.

    Args:
        kinds: (B, K).
        tokens_per_image: (I,), in order of appearance.

    Raises:
        SpanError: the images have another number of tokens.
    """
    placeholders = kinds == Kind.IMAGE
    found, expected = int(placeholders.sum()), int(tokens_per_image.sum())
    if found != expected:
        raise SpanError(
            f"token_kinds mark {found} visual tokens in the sequences given, but their images have "
            f"{expected}; model.find_token_kinds makes them from the ids"
        )
    numbers = torch.zeros_like(kinds)
    images = torch.arange(1, len(tokens_per_image) + 1, device=kinds.device)
    numbers[placeholders] = images.repeat_interleave(tokens_per_image.to(kinds.device))
    return numbers


def grow_tokens(arguments: dict[str, Any], count: int) -> dict[str, Any]:
    """Append ``count`` generated tokens to what is known of all tokens among arguments."""
    grown = dict(arguments)
    for name in ("token_kinds", "document_ids", "image_ids", "token_places"):
        values = arguments.get(name)
        if values is None:
            continue
        added = values[:, -1:].expand(-1, count)
        if name == "token_places":
            added = added + torch.arange(1, count + 1, device=added.device)
        elif name != "document_ids":
            added = torch.full_like(added, Kind.TEXT if name == "token_kinds" else 0)
        grown[name] = torch.cat([values, added], 1)
    return grown
