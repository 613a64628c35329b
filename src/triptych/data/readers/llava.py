"""LLaVA JSON: ``image`` (a path or a list), ``conversations``, ``<image>`` tags.

Each ``<image>`` tag takes the next image of the entry. An entry with images and no tag at all
shows its images before the first question, and the record carries a note that says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from triptych.data.schema import Record, parse_record
from triptych.errors import DataError

TAG = "<image>"
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
UNTAGGED = "no <image> tag: its images were put before the first question, as LLaVA does"


def convert_entry(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn one LLaVA entry into a record; keys that LLaVA does not define are ignored.

    Raises:
        DataError: when the entry has no conversation, an unknown speaker, or a number of tags
            that differs from its number of images.
    """
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: an object with 'conversations' is expected, not a bare value")
    images = _images(entry, where)
    turns = [
        _turn(turn, f"{where}: conversations[{index}]")
        for index, turn in enumerate(_turns(entry, where))
    ]
    tags = sum(text.count(TAG) for _, text in turns)
    untagged = bool(images) and tags == 0
    if tags != len(images) and not untagged:
        raise DataError(
            f"{where}: {tags} {TAG} tags but {len(images)} images; each image needs one tag"
        )
    left = iter(images)
    messages: list[dict[str, object]] = [
        {"role": role, "content": split_tags(text, left)} for role, text in turns
    ]
    if untagged:
        show_first(messages, images, where)
    obj = {"messages": messages, "id": entry.get("id"), "source": entry.get("source")}
    record = parse_record(obj, where, root)
    if not untagged:
        return record
    return Record(record.messages, where, record.id, record.source, notes=(UNTAGGED,))


def _turns(entry: Mapping[str, object], where: str) -> list[object]:
    if "conversations" not in entry:
        hint = " (this looks like our own format: use reader jsonl)" if "messages" in entry else ""
        raise DataError(f"{where}: 'conversations' is missing{hint}")
    turns = entry["conversations"]
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: 'conversations' must be a list with at least one turn")
    return turns


def _images(entry: Mapping[str, object], where: str) -> list[str | bytes]:
    image = entry.get("image", entry.get("images"))
    if image is None:
        return []
    images = image if isinstance(image, list) else [image]
    # Parquet and shards hold the encoded image itself.
    paths = [item for item in images if isinstance(item, str | bytes)]
    if len(paths) != len(images):
        raise DataError(f"{where}: 'image' must be a path or a list of paths")
    return paths


def _turn(turn: object, where: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where}: an object with 'from' and 'value' is expected")
    speaker, text = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise DataError(
            f"{where}: 'from' is {ascii(speaker)[:60]}; one of {', '.join(SPEAKERS)} is expected"
        )
    if not isinstance(text, str):
        raise DataError(f"{where}: 'value' must be a text")
    return SPEAKERS[speaker], text


def split_tags(
    text: str, images: Iterator[str | bytes], tag: str = TAG
) -> str | list[dict[str, object]]:
    """Cut a turn at its tags; the line breaks that set a tag apart are dropped with it."""
    pieces = text.split(tag)
    if len(pieces) == 1:
        return text
    parts: list[dict[str, object]] = []
    for index, piece in enumerate(pieces):
        if index > 0:
            parts.append({"type": "image", "image": next(images)})
            piece = piece.removeprefix("\n")
        if index + 1 < len(pieces):
            piece = piece.removesuffix("\n")
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def show_first(
    messages: list[dict[str, object]], images: Sequence[str | bytes], where: str
) -> None:
    """Put images before the first question.

    Raises:
        DataError: there is no question.
    """
    shown = [{"type": "image", "image": image} for image in images]
    for message in messages:
        if message["role"] == "user":
            message["content"] = [*shown, {"type": "text", "text": message["content"]}]
            return
    raise DataError(f"{where}: there are images but no human turn to show them in")
