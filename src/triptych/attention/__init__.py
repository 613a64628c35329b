"""Attention rules, and their kernels behind transformers' attention interface."""

from triptych.attention.image_cache import ImageCache, ImageEntry
from triptych.attention.interface import implementation_name, register_attention
from triptych.attention.layout import AttentionLayout, plan_attention
from triptych.attention.rules import ImageScope, Kind, Rule, RuleName, make_rule, make_tokens

__all__ = [
    "AttentionLayout",
    "ImageCache",
    "ImageEntry",
    "ImageScope",
    "Kind",
    "Rule",
    "RuleName",
    "implementation_name",
    "make_rule",
    "make_tokens",
    "plan_attention",
    "register_attention",
]
