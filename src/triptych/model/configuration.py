"""TriptychConfig: everything a checkpoint needs to restore the architecture."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from triptych.connectors import ConnectorSpec
from triptych.errors import RecipeError
from triptych.fusion import (
    ChannelFusion,
    DeepStackFusion,
    FusionSpec,
    SpliceFusion,
    find_zoom,
)
from triptych.fusion.levels import check_levels
from triptych.images.arrange import check_layout
from triptych.images.layout import TileLayout
from triptych.images.tiling import FixedTiling, TilingSpec, Zoom
from triptych.model.spec import check_blocks, check_stacks, find_conflict
from triptych.spec import Spec, validate
from triptych.towers import TowerGrid, TowerSpec, common_layout


class Panels(Spec):
    """The parts of a model that surround its language model, self-contained."""

    towers: tuple[TowerSpec, ...]
    """Resolved towers: their configurations are embedded."""
    tower_grid: TowerGrid = "largest"
    """The grid that the tokens of all towers are brought to."""
    connector: ConnectorSpec
    """The connector."""
    tiling: TilingSpec = FixedTiling()
    """How an image is cut into tiles."""
    other_tilings: tuple[TilingSpec, ...] = ()
    """Tilings of other stages of training, whose learnable tokens are kept."""
    fusion: FusionSpec = SpliceFusion()
    """Where visual tokens enter the language model."""

    @property
    def tile_size(self) -> int:
        """Side in pixels of the tiles the processor cuts: the largest that a tower takes."""
        return max(tower.tile_size for tower in self.towers)

    @property
    def tower_layout(self) -> TileLayout:
        """Layout of a tile's tokens before the connector, common to all towers."""
        return common_layout([tower.layout for tower in self.towers], self.tower_grid)

    @property
    def tower_width(self) -> int:
        """Channels of a tile's tokens before the connector, over all towers."""
        return sum(tower.width for tower in self.towers)

    @property
    def feature_shape(self) -> tuple[int, int]:
        """Tokens and channels of what the model keeps of a tile, before the connector."""
        fusion, width = self.fusion, self.tower_width
        if not isinstance(fusion, DeepStackFusion):
            return self.tower_layout.tokens, width
        if fusion.in_tower:
            return self.towers[0].inner_tokens, width
        return self.tower_layout.tokens, width * (1 + len(fusion.levels))

    @property
    def connected_width(self) -> int:
        """Channels of a token that the connector takes, those of joined groups included."""
        groups = self.fusion.count if isinstance(self.fusion, ChannelFusion) else 0
        return self.tower_width * (1 + groups)

    @property
    def zoom(self) -> Zoom | None:
        """What the fusion looks at once more, in finer tiles."""
        return find_zoom(self.fusion)

    @property
    def joins_before_connector(self) -> bool:
        """Whether the connector is given the tiles of the sequence alone."""
        if isinstance(self.fusion, DeepStackFusion):
            return self.fusion.in_tower
        return isinstance(self.fusion, ChannelFusion)

    @property
    def layout(self) -> TileLayout:
        """Layout of a tile's visual tokens, after the connector.

        Raises:
            RecipeError: the tiling asks for what these tokens cannot give.
        """
        layout = self.connector.layout(self.tower_layout)
        check_layout(self.tiling, layout, masks_padding=self.connector.masks_padding)
        check_stacks(self.fusion, self.tiling, layout)
        check_blocks(self.fusion, self.towers)
        if isinstance(self.fusion, DeepStackFusion) and self.fusion.levels:
            check_levels(self.tower_layout, self.connector.block)
        return layout


class TriptychConfig(PreTrainedConfig):
    """Configuration of a composed model.

    ``panels`` holds the resolved specs of towers and connector, ``text_config`` the configuration
    of the language model, so that no flag has to be repeated and no hub is asked on loading.

    Example:
        ``TriptychConfig(panels={"towers": [...], "connector": {...}}, text_config={...})``
    """

    model_type = "triptych"
    sub_configs = {"text_config": AutoConfig}

    panels: dict[str, Any] | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    image_token_id: int = 0
    first_new_token_id: int = 0
    new_tokens: int = 0
    attention: str = "causal"
    image_scope: str = "self"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn the nested dictionary of the language model into its configuration."""
        if isinstance(self.text_config, dict):
            settings = dict(self.text_config)
            self.text_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        elif self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        super().__post_init__(**kwargs)

    def parse_panels(self) -> Panels:
        """Parse ``panels`` into Specs.

        Raises:
            RecipeError: the stored dictionary is not valid, or does not go with the attention.
        """
        panels = validate(Panels, self.panels or {}, "config.json: panels")
        conflict = find_conflict(panels.fusion, self.attention)
        if conflict is not None:
            raise RecipeError(f"config.json: {conflict}")
        return panels
