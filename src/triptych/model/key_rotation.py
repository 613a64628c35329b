"""How a language model rotates its keys: found out by looking at what it does.

Families differ in which channels turn together, how many of them turn, at which frequencies, and
in which layers. A short run at a few positions tells, layer by layer; a model that does something
else is refused, whatever its name.

Shape suffixes: B batch, Hk key heads, N tokens of the trial, S tokens, D width, F frequencies.
"""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from triptych.attention import Kind, Rule, plan_attention
from triptych.attention.rotation import LayerRotation, Rotation, Style
from triptych.errors import RecipeError

_PLACES = (1, 7, 61, 1021)
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_COARSE = 0.04
_LENGTH_DEPENDENT = ("dynamic", "longrope")


class KeyRotation:
    """The rotary position embedding of a language model, ready for any positions.

    Args:
        language_model: a causal language model whose attention implementation is ``rule``'s.
        rule: ``mmca``, so that the trial's tokens do not depend on each other.

    Raises:
        RecipeError: what the model does to its keys is not a rotation known here, or depends on
            the length of the sequence.
    """

    def __init__(self, language_model: PreTrainedModel, rule: Rule) -> None:
        self._name = str(language_model.config.model_type)
        self._check_lengths(language_model.config.to_dict())
        decoder = language_model.get_decoder()
        try:
            self._rotary: nn.Module = decoder.get_submodule("rotary_emb")
        except AttributeError:
            raise self._refusal("it has no rotary position embedding") from None
        self._kinds = self._table_kinds(language_model.config.to_dict())
        self._layers = self._try_out(language_model, rule)

    def at(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotation of tokens at ``positions`` (S,)."""
        tables = [table for kind in self._kinds for table in self._tables(kind, positions)]
        cos, sin = zip(*tables, strict=True)
        return Rotation(
            self._layers,
            tuple(one.to(dtype) for one in cos),
            tuple(one.to(dtype) for one in sin),
        )

    def _check_lengths(self, config: dict[str, Any]) -> None:
        parameters = config.get("rope_parameters") or {}
        groups = [parameters, *(one for one in parameters.values() if isinstance(one, dict))]
        for group in groups:
            if group.get("rope_type") in _LENGTH_DEPENDENT:
                raise self._refusal(
                    f"its position encoding is '{group['rope_type']}', which rotates a key by an "
                    "angle that depends on the length of the sequence"
                )

    def _table_kinds(self, config: dict[str, Any]) -> tuple[str | None, ...]:
        """Types of layers that have tables of their own."""
        if "layer_type" not in inspect.signature(self._rotary.forward).parameters:
            return (None,)
        return tuple(sorted(set(config["layer_types"])))

    def _tables(self, kind: str | None, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Cosines and sines (S, F) by the two ways in which models lay them out.

        A factor that the model puts on both (YaRN, arXiv 2309.00071) is already in the keys.
        """
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        more = () if kind is None else (kind,)
        origin = self._rotary(like, torch.zeros_like(positions[:1])[None], *more)[0]
        cos, sin = (one[0] / origin[0, 0, 0] for one in self._rotary(like, positions[None], *more))
        half = cos.shape[-1] // 2
        return [(cos[:, :half], sin[:, :half]), (cos[:, ::2], sin[:, ::2])]

    def _try_out(self, language_model: PreTrainedModel, rule: Rule) -> tuple[LayerRotation, ...]:
        """Compare the keys of random tokens at a few places with their keys at place 0."""
        device = language_model.device
        places = torch.tensor(_PLACES, device=device)
        width = language_model.config.hidden_size
        generator = torch.Generator().manual_seed(0)
        states = torch.randn((1, len(_PLACES), width), generator=generator)
        states = states.to(device=device, dtype=language_model.dtype)
        still = _run(language_model, rule, states, torch.zeros_like(places))
        moved = _run(language_model, rule, states, places)
        if len(still) != language_model.config.num_hidden_layers:
            raise self._refusal(
                f"its {language_model.config.num_hidden_layers} layers keep "
                f"{len(still)} pairs of keys and values"
            )
        tables = [table for kind in self._kinds for table in self._tables(kind, places)]
        return tuple(
            self._match(layer, before, after, tables)
            for layer, (before, after) in enumerate(zip(still, moved, strict=True))
        )

    def _match(
        self,
        layer: int,
        still: tuple[Tensor, Tensor],
        moved: tuple[Tensor, Tensor],
        tables: Sequence[tuple[Tensor, Tensor]],
    ) -> LayerRotation:
        """The way of rotating that explains a layer's keys best."""
        limit = _TOLERANCE.get(still[0].dtype, _COARSE)
        if _distance(still[1], moved[1]) > limit:
            raise self._refusal(f"the values of its layer {layer} depend on their position")
        styles: tuple[Style, ...] = ("none", "halves", "pairs")
        ways = [(style, table) for table in range(len(tables)) for style in styles]
        found = []
        for style, table in ways:
            cos, sin = (one.to(still[0].dtype) for one in tables[table])
            if style != "none" and 2 * cos.shape[-1] > still[0].shape[-1]:
                continue
            trial = Rotation((LayerRotation(style, 0),), (cos,), (sin,))
            error = _distance(trial.apply(0, still[0]), moved[0])
            found.append((error, LayerRotation(style, table)))
        error, best = min(found, key=lambda one: one[0])
        if error > limit:
            raise self._refusal(
                f"the keys of its layer {layer} are no rotation of those at the first position"
            )
        return best

    def _refusal(self, reason: str) -> RecipeError:
        return RecipeError(
            f"images cannot be computed once and reused with a language model '{self._name}', "
            f"because {reason}; switch the image cache off (--image-cache-mb 0)"
        )


def _run(
    language_model: PreTrainedModel, rule: Rule, states: Tensor, positions: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (1, Hk, N, D) of each layer; every token is an image of its own."""
    cache = DynamicCache()
    numbers = torch.arange(1, len(positions) + 1, device=positions.device)[None]
    layout = plan_attention(
        rule, torch.full_like(numbers, Kind.IMAGE), len(positions), image_ids=numbers
    )
    with torch.no_grad():
        language_model.get_decoder()(
            inputs_embeds=states,
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
            attention_layout=layout,
        )
    return [(cast(Tensor, one.keys), cast(Tensor, one.values)) for one in cache.layers]


def _distance(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value."""
    scale = float(wanted.float().abs().max())
    return float((found.float() - wanted.float()).abs().max()) / scale if scale else 0.0
