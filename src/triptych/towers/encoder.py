"""Towers over the vision encoders of transformers.

Shape suffixes: T tiles, P tokens of a tile, Q tokens inside the encoder, D width.
"""

from collections.abc import Iterator
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.errors import CheckpointError, RecipeError
from triptych.images.layout import TileLayout
from triptych.towers.base import BlockTower, Tower, TowerSpecBase
from triptych.towers.families import family_of
from triptych.towers.family import Family, Triple
from triptych.towers.patch_families import PatchFamily
from triptych.towers.source import complete_config, read_config, read_preprocessing, read_weights


class TransformersTower(TowerSpecBase):
    """CLIP, SigLIP(2), DINOv2 and 3, ViT, Qwen3-VL's encoder, ConvNeXt(V2), EfficientNet."""

    kind: Literal["transformers"] = "transformers"
    """Names this tower."""

    source: str | None = None
    """Hub id or local folder of the pretrained encoder; weights are random without it."""

    config: dict[str, Any] | None = None
    """Config of the encoder as transformers writes it, with its model_type; read from the source
    when not given."""

    layer: int = -1
    """Index of the hidden state that is used, 0 being the embeddings and -2 the last but one
    layer; for ConvNeXt the index of the stage."""

    norm: bool = False
    """Pass the tokens of the last layer through the encoder's own last norm, as SigLIP and DINOv2
    do themselves; LLaVA taps CLIP without it."""

    cls: Literal["drop", "keep"] = "drop"
    """Whether the CLS token stays before the patches; registers are always dropped."""

    size: int | None = Field(None, ge=1)
    """Side of a tile in pixels; the size of the source when not given."""

    mean: Triple | None = None
    """Mean of the pixels in the 0..1 range, per channel; that of the source when not given."""

    std: Triple | None = None
    """Standard deviation of the pixels, per channel; that of the source when not given."""

    @model_validator(mode="after")
    def _has_origin(self) -> Self:
        if self.source is None and self.config is None:
            raise ValueError("give a source (hub id or folder) or a config with its model_type")
        return self

    def resolve(self) -> Self:
        """Embed the config of the vision part, and fill in size, mean and std.

        Raises:
            RecipeError: when the source cannot be read, its family is not known, or ``layer``,
                ``cls`` or ``size`` do not fit it.
        """
        raw = read_config(self.source) if self.config is None else self.config
        config = complete_config(raw, self._where)
        family = family_of(config, self._where)
        complete = self.size and self.mean and self.std
        read = None if self.source is None or complete else read_preprocessing(self.source)
        own_size = family.default_size(config) if read is None else read.size
        resolved = self.model_copy(
            update={
                "config": config,
                "size": self.size or own_size or family.default_size(config),
                "mean": self.mean or (read.mean if read else family.mean),
                "std": self.std or (read.std if read else family.std),
            }
        )
        resolved._check(family)
        return resolved

    def complete(self) -> Self:
        """The spec with its config written out, where it has one.

        Raises:
            RecipeError: the config is not valid.
        """
        if self.config is None:
            return self
        return self.model_copy(update={"config": complete_config(self.config, self._where)})

    @property
    def is_known(self) -> bool:
        """Whether the spec has a config."""
        return self.config is not None

    @property
    def label(self) -> str:
        """The family of the encoder."""
        return f"the tower '{self._family.model_type}'"

    def build(self) -> Tower:
        """The encoder up to the tapped layer, with random weights."""
        try:
            return (BlockEncoderTower(self) if self.tappable else EncoderTower(self)).train()
        except ValueError as error:
            raise RecipeError(f"{self._where}: cannot be built: {error}") from None

    def load(self, tower: Tower) -> None:
        """Copy the weights of the source, which must be safetensors."""
        if self.source is None:
            return
        if not isinstance(tower, EncoderTower):
            raise CheckpointError(f"{self._where}: expected a tower built from this spec")
        try:
            family = self._family
            weights = read_weights(self.source, family.full_config(self._config), family.renamed)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self._where}: weights cannot be loaded: {error}") from None
        needed = {f"encoder.{key}": key for key in tower.encoder.state_dict()}
        if tower.norm is not None:
            needed |= {f"norm.{k}": f"{self._family.last_norm}.{k}" for k in ("weight", "bias")}
        missing = sorted(set(needed.values()) - weights.keys())
        if missing:
            raise CheckpointError(
                f"{self._where}: {len(missing)} of {len(needed)} weights are not in the "
                f"checkpoint, first {missing[0]}"
            )
        tower.load_state_dict({own: weights[key] for own, key in needed.items()})

    @property
    def layout(self) -> TileLayout:
        """The grid of patches, and CLS where it is kept."""
        side = self._family.side(self._config, self.tap, self.tile_size)
        return TileLayout(rows=side, columns=side, prefix=int(self.cls == "keep"))

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self._family.width(self._config, self.tap)

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        if self.size is None:
            raise RecipeError(f"{self._where}: call resolve() first")
        return self.size

    @property
    def inner_tokens(self) -> int:
        """CLS, registers and the grid."""
        return self._family.prefix(self._config) + self.layout.rows * self.layout.columns

    @property
    def enterable(self) -> int | None:
        """Blocks up to the tapped layer; None for convolutions, and for DINOv3."""
        family = self._family
        return self.tap if isinstance(family, PatchFamily) and family.enters else None

    @property
    def tappable(self) -> int | None:
        """Blocks up to the tapped layer; None for convolutions."""
        return self.tap if isinstance(self._family, PatchFamily) else None

    @property
    def tap(self) -> int:
        """Number of layers before the tapped hidden state."""
        depth = self._family.depth(self._config)
        tap = self.layer if self.layer >= 0 else depth + 1 + self.layer
        if not 0 <= tap <= depth:
            raise RecipeError(
                f"{self._where}: layer {self.layer} does not exist; the encoder has {depth} "
                f"layers, so {-depth - 1} to {depth} can be tapped"
            )
        return tap

    @property
    def _where(self) -> str:
        return f"tower {self.source or 'config'}"

    @property
    def _config(self) -> dict[str, Any]:
        if self.config is None:
            raise RecipeError(f"{self._where}: call resolve() first")
        return self.config

    @property
    def _family(self) -> Family:
        return family_of(self._config, self._where)

    def _check(self, family: Family) -> None:
        family.cut(self._config, self.tap)
        has_norm = "layer_norm_eps" in self._config
        if self.norm and (not has_norm or self.tap < family.depth(self._config)):
            found = f"tapped at {self.layer}" if has_norm else "without one"
            raise RecipeError(
                f"{self._where}: norm belongs to the last layer (layer: -1), but "
                f"{family.model_type} is {found}"
            )
        if self.cls == "keep" and not family.has_cls:
            raise RecipeError(f"{self._where}: {family.model_type} has no CLS token to keep")
        if self.layout.rows < 1:
            raise RecipeError(
                f"{self._where}: a tile of {self.size} pixels is too small to give one token"
            )


class EncoderTower(Tower):
    """Tokens of one hidden state of a transformers encoder."""

    def __init__(self, spec: TransformersTower) -> None:
        super().__init__()
        if spec.mean is None or spec.std is None:
            raise RecipeError("the spec of a tower must be resolved before it is built")
        self.size, self.width, self.layout = spec.tile_size, spec.width, spec.layout
        self.mean, self.std = spec.mean, spec.std
        self.identity = spec.identity("source")
        config = spec.config or {}
        self.family = family_of(config, "tower")
        self.prefix = self.family.prefix(config)
        self.convolutional = self.family.convolutional
        self.encoder = self.family.build(config, spec.tap)
        eps = config["layer_norm_eps"] if spec.norm else 0.0
        self.norm = nn.LayerNorm(self.width, eps=eps) if spec.norm else None

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (T, 3, size, size) into tokens (T, P, D)."""
        return self.finish(self.family.run(self.encoder, pixels))

    def finish(self, states: Tensor) -> Tensor:
        """States (T, Q, D) of the tapped layer to tokens (T, P, D)."""
        return self.pick(states if self.norm is None else self.norm(states))

    def pick(self, states: Tensor) -> Tensor:
        """States (T, Q, D) without registers, and without CLS unless it is kept."""
        patches = states[:, self.prefix :]
        return torch.cat([states[:, :1], patches], dim=1) if self.layout.prefix else patches


class BlockEncoderTower(EncoderTower, BlockTower):
    """An encoder of transformer blocks."""

    def __init__(self, spec: TransformersTower) -> None:
        super().__init__(spec)
        self.depth = spec.tap
        self._patches = cast(PatchFamily, self.family)

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (T, 3, size, size) to what enters block 0 (T, Q, D)."""
        return self._patches.embed(self.encoder, pixels)

    def walk(self, states: Tensor, first: int, stop: int) -> Iterator[Tensor]:
        """States (T, Q, D) behind each of the blocks from ``first`` to before ``stop``."""
        return self._patches.walk(self.encoder, states, self.size, first, stop)
