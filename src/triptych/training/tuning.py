"""How a part of the model that may be adapted trains: not at all, by LoRA, or whole."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from triptych.spec import Spec

Share = Annotated[float, Field(ge=0, lt=1)]
Mode: TypeAlias = Literal["frozen", "lora", "full"]
ALL = "all-linear"


class LoraScope(Spec):
    """What is different for the layers of one scope; the part's own values where omitted."""

    rank: PositiveInt | None = None
    """Rank of the LoRA matrices."""

    alpha: PositiveFloat | None = None
    """LoRA scale: the low-rank product is multiplied by alpha / rank."""

    dropout: Share | None = None
    """Dropout before the LoRA matrices."""


def read_scopes(value: object) -> object:
    """Shorthand: one name, or a list of them."""
    names = [value] if isinstance(value, str) else value
    return {name: {} for name in names} if isinstance(names, (list, tuple)) else value


Scopes = Annotated[
    dict[str, LoraScope],
    Field(min_length=1),
    BeforeValidator(
        read_scopes, json_schema_input_type=str | tuple[str, ...] | dict[str, LoraScope]
    ),
]


class TunedPartSpec(Spec):
    """How a vision tower or the language model trains."""

    mode: Mode = "frozen"
    """`frozen`: not at all; `lora`: low-rank matrices, merged at the stage's end; `full`: whole."""

    learning_rate: PositiveFloat | None = None
    """Peak learning rate of the part; the stage's own when omitted."""

    rank: PositiveInt = 16
    """Rank of the LoRA matrices."""

    alpha: PositiveFloat = 32.0
    """LoRA scale: the low-rank product is multiplied by alpha / rank."""

    dropout: Share = 0.0
    """Dropout before the LoRA matrices."""

    dora: bool = False
    """DoRA: also train the length of each row of the adapted weights."""

    targets: Scopes = {ALL: LoraScope()}
    """Scopes that get LoRA: `all-linear` (every linear layer but the output layer), a list of names
    of layers or modules (q_proj, self_attn, layers.0.mlp; * stands for any name), or names with
    their own rank, alpha and dropout; a layer in several scopes belongs to the last one."""

    @property
    def trains(self) -> bool:
        """Whether anything of the part is updated."""
        return self.mode != "frozen"


def read_tuned(value: object) -> object:
    """Shorthand: a mode, `true`, `false`, a learning rate, or `train` for a mode."""
    if isinstance(value, str):
        return {"mode": value}
    if isinstance(value, bool):
        return {"mode": "full" if value else "frozen"}
    if isinstance(value, (int, float)):
        return {"mode": "full", "learning_rate": value}
    if isinstance(value, Mapping) and isinstance(value.get("train"), bool):
        rest = {name: one for name, one in value.items() if name != "train"}
        return {"mode": "full" if value["train"] else "frozen", **rest}
    return value


TunedPart = Annotated[
    TunedPartSpec,
    BeforeValidator(read_tuned, json_schema_input_type=bool | float | Mode | TunedPartSpec),
]
