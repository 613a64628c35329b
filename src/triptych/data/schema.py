"""Reading one JSON object as a record."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from triptych.data.record import (
    LEARNED_ROLES,
    ROLES,
    ImagePart,
    Message,
    Part,
    Record,
    Role,
    TextPart,
    is_url,
)
from triptych.data.words import kind, nearest, short
from triptych.errors import DataError

__all__ = [
    "LEARNED_ROLES",
    "ROLES",
    "ImagePart",
    "Message",
    "Part",
    "Record",
    "Role",
    "TextPart",
    "is_url",
    "parse_record",
]

RECORD_KEYS = (
    "messages", "id", "source", "license", "category", "metadata", "chosen", "rejected",
)  # fmt: skip
MESSAGE_KEYS = ("role", "content", "loss", "category")
PART_KEYS: dict[str, tuple[str, ...]] = {
    "text": ("type", "text"),
    "image": ("type", "image"),
    "image_url": ("type", "image_url"),
}


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
        raise DataError(f"{where}: 'messages' is {kind(messages)}; a list of messages is expected")
    if not messages:
        raise DataError(f"{where}: 'messages' is empty; at least one message is expected")
    category = _optional_text(fields, "category", where)
    identity = fields.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    metadata = fields.get("metadata")
    if metadata is not None:
        metadata = _mapping(metadata, where, "'metadata'", "an object")
    chosen = _optional_text(fields, "chosen", where)
    rejected = _optional_text(fields, "rejected", where)
    if (chosen is None) != (rejected is None):
        raise DataError(f"{where}: 'chosen' and 'rejected' belong together; one is missing")
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
        chosen=chosen,
        rejected=rejected,
    )


def _message(obj: object, where: str, root: Path | None, category: str | None) -> Message:
    fields = _mapping(obj, where, "a message", "an object with 'role' and 'content'")
    _check_keys(fields, MESSAGE_KEYS, where, "a message")
    if "role" not in fields:
        raise DataError(f"{where}: 'role' is missing; one of {', '.join(ROLES)} is expected")
    role = fields["role"]
    if not isinstance(role, str):
        raise DataError(f"{where}: 'role' is {kind(role)}; one of {', '.join(ROLES)} is expected")
    if role not in ROLES:
        raise DataError(f"{where}: unknown role {short(role)} ({nearest(role, ROLES, 'roles')})")
    loss = fields.get("loss", True)
    if not isinstance(loss, bool):
        raise DataError(f"{where}: 'loss' is {kind(loss)}; true or false is expected")
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
            f"{where}: 'content' is {kind(content)}; a text or a list of parts is expected"
        )
    if not content:
        raise DataError(f"{where}: 'content' is an empty list; at least one part is expected")
    return tuple(
        _part(part, f"{where}.content[{index}]", root) for index, part in enumerate(content)
    )


def _part(obj: object, where: str, root: Path | None) -> Part:
    expected = '{"type": "text", "text": ...} or {"type": "image", "image": ...}'
    fields = _mapping(obj, where, "a part", expected)
    sort = fields.get("type")
    if not isinstance(sort, str):
        raise DataError(f"{where}: 'type' is {kind(sort)}; {expected} is expected")
    if sort not in PART_KEYS:
        raise DataError(
            f"{where}: unknown type {short(sort)} ({nearest(sort, tuple(PART_KEYS), 'types')})"
        )
    _check_keys(fields, PART_KEYS[sort], where, f"a part of type {sort}")
    if sort == "text":
        return TextPart(_text(fields.get("text"), f"{where}: 'text'"))
    image = fields.get(sort)
    if sort == "image_url" and not isinstance(image, str):
        image = _url(image, where)
    return ImagePart(_image(image, f"{where}: '{sort}'"), root)


def _url(obj: object, where: str) -> object:
    fields = _mapping(obj, f"{where}: 'image_url'", "an image address", '{"url": ...}')
    _check_keys(fields, ("url", "detail"), where, "'image_url'")
    return fields.get("url")


def _image(image: object, where: str) -> str | bytes | Path:
    if isinstance(image, str):
        if not _text(image, where).strip() or "\0" in image:
            raise DataError(f"{where} is {short(image)}; a path or a data URI is expected")
        return image
    if isinstance(image, bytes) and not image:
        raise DataError(f"{where} holds no bytes; the bytes of an image file are expected")
    if isinstance(image, bytes | Path):
        return image
    raise DataError(f"{where} is {kind(image)}; a path or a data URI is expected")


def _text(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where} is {kind(text)}; a text is expected")
    if text.isascii():
        return text
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
    # The check of a Mapping costs ten times that of a dict.
    if not isinstance(obj, dict | Mapping):
        raise DataError(f"{where}: {what} is {kind(obj)}; {expected} is expected")
    return obj


def _check_keys(fields: Mapping[str, object], known: Sequence[str], where: str, what: str) -> None:
    for key in fields:
        if key not in known:
            raise DataError(
                f"{where}: unknown key {short(key)} in {what} ({nearest(str(key), known, 'keys')})"
            )
