"""TriptychProcessor: messages and images in, model inputs out.

Shape suffixes: B batch, S sequence, I images, T tiles.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from triptych.errors import DataError
from triptych.images.count import image_tokens, sequence_tokens
from triptych.images.crop import crop_tiles
from triptych.images.decode import ImageInput, open_image
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan, plan_tiles
from triptych.images.tiling import TilingSpec, Zoom
from triptych.model.prompt import Prompt, Skeleton, nest_images, pack_prompts, pad_prompts
from triptych.model.sharing import share_tiles
from triptych.model.spec import Numbered
from triptych.model.template import (
    IMAGE_END,
    IMAGE_START,
    IMAGE_TOKEN,
    Segment,
    render,
)
from triptych.spec import Spec, validate

Tiles = npt.NDArray[Any]


class VisionSettings(Spec):
    """What the processor must know of the model's vision side."""

    tiling: TilingSpec
    """How an image is cut into tiles."""
    tile_size: int
    """Side of a tile in pixels."""
    rows: int
    """Rows of a tile's visual tokens."""
    columns: int
    """Columns of a tile's visual tokens."""
    prefix: int = 0
    """Visual tokens of a tile that stand before its grid."""
    whole_image: bool = False
    """The visual tokens are those of a whole image, not of each tile."""
    numbered: Numbered = "no"
    """Where the text numbers the images."""
    tags: bool = False
    """Images are wrapped in a start and an end token."""
    outside: bool = False
    """Visual tokens stay outside the sequence, one placeholder for each image inside it."""
    zoom: Zoom | None = None
    """What is looked at once more, in finer tiles without a place in the sequence."""


class TriptychProcessor(ProcessorMixin):
    """Tokenizer, chat template and tiling of one model.

    ``encode``, ``tiles`` and ``collate`` are the three steps; ``apply_chat_template`` and
    ``__call__`` join them in the way transformers users know.

    Args:
        tokenizer: a fast tokenizer that knows ``<image>``.
        vision: the fields of ``VisionSettings``.
        end_token: the token that ends an answer.
        chat_template: jinja text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vision: Mapping[str, Any],
        end_token: str,
        chat_template: str,
    ) -> None:
        self.vision = dict(vision)
        self.end_token = end_token
        self.settings = validate(VisionSettings, self.vision, "processor_config.json: vision")
        one = self.settings
        self.layout = TileLayout(one.rows, one.columns, one.prefix, one.whole_image)
        self.tile_size = self.settings.tile_size
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_token_id = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        self.end_token_id = int(tokenizer.convert_tokens_to_ids(end_token))
        self.pad_token_id = int(
            self.end_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        )

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that ``collate`` makes."""
        return [
            "input_ids",
            "attention_mask",
            "pixel_values",
            "tiles_per_image",
            "images_per_sample",
            "tile_index",
            "image_sizes",
        ]

    def plan(self, width: int, height: int) -> TilePlan:
        """Plan the tiles of an image of ``width`` x ``height`` pixels."""
        one = self.settings
        return plan_tiles(width, height, self.tile_size, one.tiling, one.zoom)

    def count(self, width: int, height: int) -> int:
        """Tokens of the sequence that an image of ``width`` x ``height`` pixels takes."""
        visual = image_tokens(self.plan(width, height), self.layout)
        return sequence_tokens(visual, outside=self.settings.outside)

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template needs to know beside the messages."""
        return {
            "image_token": IMAGE_TOKEN,
            "image_start": IMAGE_START,
            "image_end": IMAGE_END,
            "numbered": self.settings.numbered,
            "tags": self.settings.tags,
            "bos_token": self.tokenizer.bos_token or "",
            "end_token": self.end_token,
        }

    def segments(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> list[Segment]:
        """Render messages into text segments; see ``template.render``."""
        return render(
            cast(str, self.chat_template),
            messages,
            add_generation_prompt=add_generation_prompt,
            variables=self.template_variables,
        )

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        sizes: Sequence[tuple[int, int]],
        *,
        add_generation_prompt: bool = False,
    ) -> Prompt:
        """Tokenise a conversation.

        The text is cut where supervision begins and ends before it is tokenised, so that the
        tokens of a prompt are a prefix of the tokens of the same conversation with its answer.

        Args:
            messages: chat-completions messages; the k-th image part has ``sizes[k]``.
            sizes: (width, height) of each image in pixels.
            add_generation_prompt: open an assistant turn at the end.

        Raises:
            DataError: the number of image parts is not the number of sizes.
        """
        skeleton = self.skeleton(messages, add_generation_prompt=add_generation_prompt)
        return skeleton.expand([self.count(width, height) for width, height in sizes], sizes)

    def skeleton(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> Skeleton:
        """Tokenise a conversation without knowing its images; see ``encode``."""
        skeleton = Skeleton([], [], [])
        for segment in self.segments(messages, add_generation_prompt=add_generation_prompt):
            in_loss = segment.message is not None and messages[segment.message].get("loss", True)
            self._extend(skeleton, segment.text, bool(in_loss))
        return skeleton

    def _extend(self, skeleton: Skeleton, text: str, in_loss: bool) -> None:
        # The backend by itself: the call of transformers around it costs ten times as much.
        ids = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        start, image = len(skeleton.ids), self.image_token_id
        skeleton.ids.extend(ids)
        if image not in ids:
            skeleton.supervised.extend([in_loss] * len(ids))
            return
        skeleton.supervised.extend(in_loss and token != image for token in ids)
        skeleton.places.extend(start + at for at, token in enumerate(ids) if token == image)

    def tiles(self, image: Image.Image) -> Tiles:
        """Cut an RGB image into tiles, uint8 (T, 3, S, S)."""
        return crop_tiles(image, self.plan(*image.size))

    def collate(
        self,
        prompts: Sequence[Prompt],
        tiles: Sequence[Sequence[Tiles]],
        *,
        padding_side: Literal["left", "right"] = "right",
        labels: bool = False,
        packed: bool = False,
    ) -> dict[str, Tensor]:
        """Stack conversations into one batch.

        Args:
            prompts: tokens of each conversation.
            tiles: for each conversation, for each of its images, its uint8 tiles (T, 3, S, S), or
                its cached tower features (T, P, D) in a floating type.
            padding_side: where shorter conversations are filled up.
            labels: also make ``labels``, -100 outside the loss.
            packed: join all of them into one row without padding.

        Returns:
            ``input_ids``, ``attention_mask`` (B, S); ``images_per_sample`` (B,); where there are
            images ``tiles_per_image`` (I,), ``image_sizes`` (I, 2) in pixels, width first, and
            ``pixel_values`` or ``tile_features``; where tiles are equal, ``tile_index`` (T,) into
            ``pixel_values``, which holds each once; where packed ``document_ids`` (1, S).
        """
        if packed:
            batch = pack_prompts(prompts)
            batch["images_per_sample"] = torch.tensor([sum(len(images) for images in tiles)])
        else:
            batch = pad_prompts(prompts, self.pad_token_id, padding_side)
            batch["images_per_sample"] = torch.tensor([len(images) for images in tiles])
        if not labels:
            del batch["labels"]
        flat = [image for images in tiles for image in images]
        if flat:
            batch["tiles_per_image"] = torch.tensor([len(image) for image in flat])
            batch["image_sizes"] = torch.tensor([size for p in prompts for size in p.sizes])
            pixels = np.concatenate(flat)
            if pixels.dtype == np.uint8:
                pixels, index = share_tiles(pixels)
                batch["pixel_values"] = torch.from_numpy(pixels)
                if index is not None:
                    batch["tile_index"] = torch.from_numpy(index)
            else:
                batch["tile_features"] = torch.from_numpy(pixels)
        return batch

    def __call__(  # type: ignore[override]
        self,
        images: Image.Image | Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: Literal["pt"] = "pt",
        padding_side: Literal["left", "right"] = "left",
    ) -> BatchFeature:
        """Prepare rendered texts whose images stand as ``<image>``.

        Args:
            images: one image, the images of one text, or a list of images for each text.
            text: one text or a list.
            return_tensors: only ``pt``.
            padding_side: left for generation, right for training.
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        nested = nest_images(images, len(texts))
        prompts = []
        for one, pictures in zip(texts, nested, strict=True):
            skeleton = Skeleton([], [], [])
            self._extend(skeleton, one, False)
            if len(skeleton.places) != len(pictures):
                raise DataError(
                    f"the text has {len(skeleton.places)} {IMAGE_TOKEN!r}, but {len(pictures)} "
                    "image(s) were given"
                )
            sizes = [picture.size for picture in pictures]
            prompts.append(skeleton.expand([self.count(*size) for size in sizes], sizes))
        tiles = [[self.tiles(picture.convert("RGB")) for picture in row] for row in nested]
        return BatchFeature(dict(self.collate(prompts, tiles, padding_side=padding_side)))

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Any],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        return_tensors: Literal["pt"] = "pt",
        padding_side: Literal["left", "right"] = "left",
    ) -> str | list[str] | Tensor | BatchFeature:
        """Render one conversation or a list of them; with ``tokenize`` make model inputs.

        Image parts carry a path, data URI, bytes or PIL image under ``image``, ``path``, ``url``
        or ``image_url.url``.
        """
        many = bool(conversation) and not isinstance(conversation[0], Mapping)
        conversations = list(conversation) if many else [conversation]
        if not tokenize:
            texts = [
                "".join(
                    s.text for s in self.segments(c, add_generation_prompt=add_generation_prompt)
                )
                for c in conversations
            ]
            return texts if many else texts[0]
        pictures = [[open_image(part) for part in image_sources(c)] for c in conversations]
        prompts = [
            self.encode(c, [p.size for p in row], add_generation_prompt=add_generation_prompt)
            for c, row in zip(conversations, pictures, strict=True)
        ]
        tiles = [[self.tiles(picture) for picture in row] for row in pictures]
        batch = BatchFeature(dict(self.collate(prompts, tiles, padding_side=padding_side)))
        return batch if return_dict else cast(Tensor, batch["input_ids"])


def image_sources(messages: Sequence[Mapping[str, Any]]) -> list[ImageInput]:
    """List what the image parts of a conversation refer to, in order.

    Raises:
        DataError: an image part carries no image.
    """
    sources: list[ImageInput] = []
    for number, message in enumerate(messages, start=1):
        content = message["content"]
        for part in () if isinstance(content, str) else content:
            if part["type"] in ("image", "image_url"):
                sources.append(_source(part, number))
    return sources


def _source(part: Mapping[str, Any], message: int) -> ImageInput:
    for key in ("image", "path", "url", "image_url"):
        if key in part:
            value = part[key]
            return cast(ImageInput, value["url"] if isinstance(value, Mapping) else value)
    raise DataError(
        f"message {message}: an image part carries no image; found the keys {sorted(part)}, "
        "expected 'image' with a path, data URI, bytes or PIL image"
    )
