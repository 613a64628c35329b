"""Attention rules as attention functions of transformers.

``register_attention`` makes a rule known under a name; a language model whose attention
implementation has that name passes the forward arguments ``token_kinds``, ``document_ids``,
``image_ids`` and ``token_places``, or a prepared ``attention_layout``, on to it in every layer.

Shape suffixes: B batch, H heads, Hk key heads, Q queries, K keys, D head width.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from triptych.attention.kernels.blocked import blocked_attention
from triptych.attention.kernels.dense import dense_attention
from triptych.attention.kernels.native import has_native, native_attention
from triptych.attention.kernels.packed import packed_attention
from triptych.attention.layout import AttentionLayout, plan_attention
from triptych.attention.rotation import Rotation
from triptych.attention.rules import Rule
from triptych.errors import RecipeError

_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
_BLOCK_TYPES = (torch.float32, torch.bfloat16)

Output = tuple[Tensor, None]


def implementation_name(rule: Rule) -> str:
    """The name of a rule among transformers' attention implementations."""
    scope = "" if rule.image_scope == "self" else f"_{rule.image_scope}"
    return f"triptych_{rule.name}{scope}"


def register_attention(rule: Rule) -> str:
    """Make a rule known to transformers; to do so again changes nothing.

    Returns:
        The name for ``attn_implementation``.
    """
    name = implementation_name(rule)
    AttentionInterface.register(name, partial(attention_forward, rule))
    return name


def attention_forward(
    rule: Rule,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    attention_layout: AttentionLayout | None = None,
    token_kinds: Tensor | None = None,
    document_ids: Tensor | None = None,
    image_ids: Tensor | None = None,
    token_places: Tensor | None = None,
    late_rotation: Rotation | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> Output:
    """Attention under a rule, in the shape that transformers asks for.

    Args:
        rule: the attention rule.
        module: the attention layer.
        query: (B, H, Q, D), the last Q of the K tokens.
        key: (B, Hk, K, D); a longer, static cache is cut.
        value: (B, Hk, K, D).
        attention_mask: must be None; padding is a token kind.
        dropout: must be 0.
        scaling: of the scores; default: 1 / sqrt(D).
        attention_layout: the layout of the batch, else it is worked out in every layer.
        token_kinds: (B, K), see ``plan_attention``.
        document_ids: (B, K), see ``plan_attention``.
        image_ids: (B, K), see ``plan_attention``.
        token_places: (B, K), see ``plan_attention``.
        late_rotation: of the S = Q = K tokens, when queries and keys come without theirs, so that a
            cache holds keys before rotation.
        sliding_window: refused when it would hide a key.
        kwargs: what else the layer passes.

    Returns:
        (B, Q, H, D), and no weights.

    Raises:
        RecipeError: the layer asks for what a rule cannot do.
    """
    layout = attention_layout
    if layout is None:
        if token_kinds is None:
            raise RecipeError(
                f"attention '{rule.name}' needs token_kinds (0 padding, 1 text, 2 image) of all "
                "tokens, cached ones included, as a forward argument of the language model"
            )
        layout = plan_attention(
            rule,
            token_kinds,
            query.shape[2],
            document_ids=document_ids,
            image_ids=image_ids,
            token_places=token_places,
        )
    _check(layout, query, key, attention_mask, dropout, sliding_window, kwargs)
    key, value = key[:, :, : layout.keys], value[:, :, : layout.keys]
    if late_rotation is not None:
        place = cast(int, module.layer_idx)
        query, key = late_rotation.apply(place, query), late_rotation.apply(place, key)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout.plain:
        out, _ = sdpa_attention_forward(module, query, key, value, None, scaling=scale)
        return out, None
    return _attend(layout, query, key, value, scale).transpose(1, 2), None


def _attend(
    layout: AttentionLayout, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> Tensor:
    """Attention (B, H, Q, D) by the kernel that costs least where it can run."""
    if layout.masks is not None:
        return dense_attention(query, key, value, layout.masks, scale)
    if layout.packed is None:
        raise RecipeError("an attention layout for few queries was given to many")
    eager = not torch.compiler.is_compiling()
    flex = layout.flex if eager and (query.is_cuda or not torch.is_grad_enabled()) else None
    alike = query.shape[-1] == value.shape[-1]
    if eager and query.device.type == "cpu" and alike and flex is None:
        if query.dtype == torch.float32 and has_native():
            return native_attention(query, key, value, layout.intervals, scale)
        if query.dtype in _BLOCK_TYPES and layout.prefers_blocks:
            return blocked_attention(query, key, value, layout.blocks, scale)
    return packed_attention(layout.rule, query, key, value, layout.packed, scale, flex)


def _check(
    layout: AttentionLayout,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    sliding_window: int | None,
    kwargs: dict[str, Any],
) -> None:
    """Refuse what would silently be another attention than the one asked for."""
    name = layout.rule.name
    if attention_mask is not None:
        raise RecipeError(f"attention '{name}' takes token_kinds, not an attention mask")
    if dropout:
        raise RecipeError(
            f"attention '{name}' has no dropout, found {dropout}; set attention_dropout to 0 in "
            "model.language.config"
        )
    if sliding_window is not None and layout.keys > sliding_window:
        raise RecipeError(
            f"attention '{name}' cannot keep to the sliding window of {sliding_window} tokens of "
            f"this language model in a sequence of {layout.keys}; shorten the sequences, or choose "
            "attention 'causal' or a model without sliding_window"
        )
    for option in _UNSUPPORTED:
        if kwargs.get(option) is not None:
            raise RecipeError(f"attention '{name}' cannot honour {option} of this language model")
    if layout.queries != query.shape[2] or layout.keys > key.shape[2]:
        raise RecipeError(
            f"token_kinds describe {layout.queries} queries and {layout.keys} keys, but the layer "
            f"has {query.shape[2]} and {key.shape[2]}; give the kinds of all tokens, cached ones "
            "included"
        )
