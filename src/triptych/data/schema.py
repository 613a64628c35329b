"""The record: one training or evaluation sample, and the only shape the rest of the code knows."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from triptych.errors import DataError

Role: TypeAlias = Literal["system", "user", "assistant", "document"]

ROLES: tuple[Role, ...] = ("system", "user", "assistant", "document")
LEARNED_ROLES: tuple[Role, ...] = ("assistant", "document")
RECORD_KEYS = ("messages", "id", "source", "license", "category", "metadata")
MESSAGE_KEYS = ("role", "content", "loss", "category")
PART_KEYS: dict[str, tuple[str, ...]] = {
    "text": ("type", "text"),
    "image": ("type", "image"),
    "image_url": ("type", "image_url"),
}


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
        return str(self.root / self.image)

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
    """

    messages: tuple[Message, ...]
    where: str = "record"
    id: str | None = None
    source: str | None = None
    license: str | None = None
    metadata: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> list[ImagePart]:
        """Every image of the conversation in reading order."""
        return [image for message in self.messages for image in message.images]

    def to_messages(self) -> list[dict[str, object]]:
        """Plain chat-completions dicts for the processor; image paths are put under their root."""
        return [_plain_message(message, located=True) for message in self.messages]

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
        optional = {
            "id": self.id,
            "source": self.source,
            "license": self.license,
            "metadata": None if self.metadata is None else dict(self.metadata),
        }
        plain: dict[str, object] = {k: v for k, v in optional.items() if v is not None}
        plain["messages"] = [_plain_message(message, located=False) for message in self.messages]
        return plain


def is_url(image: str) -> bool:
    """Tell whether ``image`` is a data or web address rather than a path."""
    return image.startswith("data:") or "://" in image[:16]


def _plain_message(message: Message, *, located: bool) -> dict[str, object]:
    parts: list[dict[str, object]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        elif located:
            parts.append({"type": "image", "image": part.location})
        else:
            parts.append({"type": "image", "image": str(part.image)})
    plain: dict[str, object] = {"role": message.role, "content": parts}
    if not message.images:
        plain["content"] = message.text
    if message.role in LEARNED_ROLES and not message.loss:
        plain["loss"] = False
    if message.category is not None:
        plain["category"] = message.category
    return plain


def parse_record(obj: object, where: str, root: Path | None = None) -> Record:
    """Read one JSON object as a record.

    Args:
        obj: the object, as ``json.loads`` gives it. Image parts may also hold bytes or a Path.
        where: "file:line", put before every message.
        root: the folder that relative image paths start from.

    Raises:
        DataError: naming the message, the part, what was found and what is expected.
    """
    fields = _mapping(obj, where, "a record", "an object with the key 'messages'")
    if "conversations" in fields and "messages" not in fields:
        raise DataError(f"{where}: this looks like LLaVA JSON; read the file with reader 'llava'")
    _check_keys(fields, RECORD_KEYS, where, "a record")
    messages = fields.get("messages")
    if not isinstance(messages, list | tuple):
        raise DataError(f"{where}: 'messages' is {_kind(messages)}; a list of messages is expected")
    if not messages:
        raise DataError(f"{where}: 'messages' is empty; at least one message is expected")
    category = _optional_text(fields, "category", where)
    identity = fields.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    metadata = fields.get("metadata")
    if metadata is not None:
        metadata = _mapping(metadata, where, "'metadata'", "an object")
    return Record(
        messages=tuple(
            _message(message, f"{where}: messages[{index}]", root, category)
            for index, message in enumerate(messages)
        ),
        where=where,
        id=_optional_text({"id": identity}, "id", where),
        source=_optional_text(fields, "source", where),
        license=_optional_text(fields, "license", where),
        metadata=metadata,
    )


def _message(obj: object, where: str, root: Path | None, category: str | None) -> Message:
    fields = _mapping(obj, where, "a message", "an object with 'role' and 'content'")
    _check_keys(fields, MESSAGE_KEYS, where, "a message")
    if "role" not in fields:
        raise DataError(f"{where}: 'role' is missing; one of {', '.join(ROLES)} is expected")
    role = fields["role"]
    if not isinstance(role, str):
        raise DataError(f"{where}: 'role' is {_kind(role)}; one of {', '.join(ROLES)} is expected")
    if role not in ROLES:
        raise DataError(f"{where}: unknown role {_short(role)} ({_nearest(role, ROLES, 'roles')})")
    loss = fields.get("loss", True)
    if not isinstance(loss, bool):
        raise DataError(f"{where}: 'loss' is {_kind(loss)}; true or false is expected")
    if loss and "loss" in fields and role not in LEARNED_ROLES:
        raise DataError(
            f"{where}: 'loss' is true on a message of role {role}; only assistant and document "
            "messages are learned"
        )
    if "content" not in fields:
        raise DataError(f"{where}: 'content' is missing; a text or a list of parts is expected")
    own = _optional_text(fields, "category", where)
    return Message(
        role=role,
        content=_content(fields["content"], where, root),
        loss=loss,
        category=own or (category if role in LEARNED_ROLES else None),
    )


def _content(content: object, where: str, root: Path | None) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(_text(content, f"{where}: 'content'")),)
    if not isinstance(content, list | tuple):
        raise DataError(
            f"{where}: 'content' is {_kind(content)}; a text or a list of parts is expected"
        )
    if not content:
        raise DataError(f"{where}: 'content' is an empty list; at least one part is expected")
    return tuple(
        _part(part, f"{where}.content[{index}]", root) for index, part in enumerate(content)
    )


def _part(obj: object, where: str, root: Path | None) -> Part:
    expected = '{"type": "text", "text": ...} or {"type": "image", "image": ...}'
    fields = _mapping(obj, where, "a part", expected)
    kind = fields.get("type")
    if not isinstance(kind, str):
        raise DataError(f"{where}: 'type' is {_kind(kind)}; {expected} is expected")
    if kind not in PART_KEYS:
        raise DataError(
            f"{where}: unknown type {_short(kind)} ({_nearest(kind, tuple(PART_KEYS), 'types')})"
        )
    _check_keys(fields, PART_KEYS[kind], where, f"a part of type {kind}")
    if kind == "text":
        return TextPart(_text(fields.get("text"), f"{where}: 'text'"))
    image = fields.get(kind)
    if kind == "image_url" and not isinstance(image, str):
        image = _url(image, where)
    return ImagePart(_image(image, f"{where}: '{kind}'"), root)


def _url(obj: object, where: str) -> object:
    fields = _mapping(obj, f"{where}: 'image_url'", "an image address", '{"url": ...}')
    _check_keys(fields, ("url", "detail"), where, "'image_url'")
    return fields.get("url")


def _image(image: object, where: str) -> str | bytes | Path:
    if isinstance(image, str):
        if not _text(image, where).strip() or "\0" in image:
            raise DataError(f"{where} is {_short(image)}; a path or a data URI is expected")
        return image
    if isinstance(image, bytes) and not image:
        raise DataError(f"{where} holds no bytes; the bytes of an image file are expected")
    if isinstance(image, bytes | Path):
        return image
    raise DataError(f"{where} is {_kind(image)}; a path or a data URI is expected")


def _text(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where} is {_kind(text)}; a text is expected")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds a lone surrogate at character {error.start}, which is not text; "
            "write the file again as UTF-8"
        ) from None
    return text


def _optional_text(fields: Mapping[str, object], key: str, where: str) -> str | None:
    value = fields.get(key)
    return None if value is None else _text(value, f"{where}: '{key}'")


def _mapping(obj: object, where: str, what: str, expected: str) -> Mapping[str, object]:
    if not isinstance(obj, Mapping):
        raise DataError(f"{where}: {what} is {_kind(obj)}; {expected} is expected")
    return obj


def _check_keys(fields: Mapping[str, object], known: Sequence[str], where: str, what: str) -> None:
    for key in fields:
        if key not in known:
            raise DataError(
                f"{where}: unknown key {_short(key)} in {what} "
                f"({_nearest(str(key), known, 'keys')})"
            )


def _nearest(word: str, known: Sequence[str], plural: str) -> str:
    close = difflib.get_close_matches(word[:64].lower(), known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known {plural}: {', '.join(known)}"


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: object) -> str:
    """A JSON value in words, short enough for a message."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool | int | float):
        return f"{_short(value)} (a {'boolean' if isinstance(value, bool) else 'number'})"
    if isinstance(value, str):
        return f"the text {_short(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        keys = ", ".join(_short(key) for key in list(value)[:4])
        return f"an object with the keys {keys}" if keys else "an empty object"
    return f"of type {type(value).__name__}"
