"""The record: one sample, and the only shape of data that the rest of the code knows."""

import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from triptych.errors import DataError

Role: TypeAlias = Literal["system", "user", "assistant", "document"]

ROLES: tuple[Role, ...] = ("system", "user", "assistant", "document")
LEARNED_ROLES: tuple[Role, ...] = ("assistant", "document")


@dataclass(frozen=True)
class TextPart:
    """A piece of text inside a message."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An image inside a message.

    Attributes:
        image: as written in the record: a path, a data URI, or the bytes of an image file.
        root: the folder that a relative path starts from; None for the current folder.
    """

    image: str | bytes | Path
    root: Path | None = None

    @property
    def location(self) -> str | bytes | Path:
        """What ``open_image`` opens: ``image``, a relative path put under ``root``."""
        if self.root is None or isinstance(self.image, bytes):
            return self.image
        if isinstance(self.image, str) and is_url(self.image):
            return self.image
        # Many times faster than the join of a Path, and the size pass joins every one.
        return os.path.join(self.root, self.image)  # noqa: PTH118

    @property
    def name(self) -> str:
        """A short name for messages: the path, or what the image is when it has none."""
        if isinstance(self.image, bytes):
            return f"(image of {len(self.image)} bytes)"
        text = str(self.image)
        return text if len(text) <= 120 else text[:40] + "..."


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, or a whole interleaved document.

    Attributes:
        role: who speaks.
        content: texts and images in reading order.
        loss: False keeps an answer or a document out of the loss.
        category: the kind of question that an answer belongs to, for scores by category.
    """

    role: Role
    content: tuple[Part, ...]
    loss: bool = True
    category: str | None = None

    @property
    def learned(self) -> bool:
        """True when this message has text that is in the loss."""
        return self.role in LEARNED_ROLES and self.loss

    @property
    def text(self) -> str:
        """The texts of the message joined, images left out."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> list[ImagePart]:
        """The images of the message in reading order."""
        return [part for part in self.content if isinstance(part, ImagePart)]


@dataclass(frozen=True)
class Record:
    """One sample.

    Attributes:
        messages: the conversation, or a single message of role "document".
        where: "file:line" for messages about this record.
        notes: remarks of the reader about what it had to assume.
        metadata: anything else that the maker of the record wants to keep with it.
        chosen, rejected: of preference data, two answers to the question that comes last.
    """

    messages: tuple[Message, ...]
    where: str = "record"
    id: str | None = None
    source: str | None = None
    license: str | None = None
    metadata: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()
    chosen: str | None = None
    rejected: str | None = None

    def settled(self) -> "Record":
        """The record to be supervised: of preference data, with the chosen answer in its place."""
        return self if self.chosen is None else self.answered(self.chosen)

    def answered(self, answer: str) -> "Record":
        """The conversation with ``answer`` at its end, and no preference left."""
        said = Message("assistant", (TextPart(answer),))
        return replace(self, messages=(*self.messages, said), chosen=None, rejected=None)

    @property
    def images(self) -> list[ImagePart]:
        """Every image of the conversation in reading order."""
        return [image for message in self.messages for image in message.images]

    def to_messages(self) -> list[dict[str, object]]:
        """Plain chat-completions dicts for the processor; image paths are put under their root."""
        return [_plain_message(message, located=True) for message in self.messages]

    def wording(self) -> list[dict[str, object]]:
        """What a chat template sees of the record: its texts, and where its images stand."""
        return [_plain_message(message, located=None) for message in self.messages]

    @property
    def wording_key(self) -> Hashable:
        """Equal for records of equal ``wording``."""
        return tuple(
            (
                m.role,
                m.loss,
                m.category,
                *(p.text if type(p) is TextPart else None for p in m.content),
            )
            for m in self.messages
        )

    def to_json(self) -> dict[str, object]:
        """The record as a JSON object, images as they were written.

        Raises:
            DataError: when an image is held as bytes, which JSON cannot carry.
        """
        for image in self.images:
            if isinstance(image.image, bytes):
                raise DataError(
                    f"{self.where}: an image held as bytes cannot be written as JSON; "
                    "save it as a file or use a data URI"
                )
        return self.to_plain()

    def to_plain(self) -> dict[str, object]:
        """What ``parse_record`` takes: the JSON object, images held as bytes left as they are."""
        optional = {
            "id": self.id,
            "source": self.source,
            "license": self.license,
            "metadata": None if self.metadata is None else dict(self.metadata),
            "chosen": self.chosen,
            "rejected": self.rejected,
        }
        plain: dict[str, object] = {k: v for k, v in optional.items() if v is not None}
        plain["messages"] = [_plain_message(message, located=False) for message in self.messages]
        return plain


def is_url(image: str) -> bool:
    """Tell whether ``image`` is a data or web address rather than a path."""
    return image.startswith("data:") or "://" in image[:16]


def _plain_message(message: Message, *, located: bool | None) -> dict[str, object]:
    """A message as a dict; images as they are opened, as they were written, or (None) unnamed."""
    plain: dict[str, object] = {"role": message.role}
    if message.images:
        plain["content"] = [_plain_part(part, located) for part in message.content]
    else:
        plain["content"] = message.text
    if message.role in LEARNED_ROLES and not message.loss:
        plain["loss"] = False
    if message.category is not None:
        plain["category"] = message.category
    return plain


def _plain_part(part: Part, located: bool | None) -> dict[str, object]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if located is None:
        return {"type": "image"}
    if located:
        return {"type": "image", "image": part.location}
    return {
        "type": "image",
        "image": str(part.image) if isinstance(part.image, Path) else part.image,
    }
