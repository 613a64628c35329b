"""Preference pairs: a question about images, a chosen answer and a rejected one."""

from collections.abc import Mapping
from pathlib import Path

from triptych.data.readers.llava import TAG, show_first, split_tags
from triptych.data.readers.sharegpt import convert_sharegpt
from triptych.data.schema import Record, parse_record
from triptych.errors import DataError


def convert_preference(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn a preference pair into a record.

    The question is ``prompt`` or ``question``, or a ShareGPT conversation that ends with a
    question. An answer is a text, a turn, or a list of messages of which the last one counts.

    Raises:
        DataError: a part is missing or not a text.
    """
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: an object with 'chosen' and 'rejected' is expected")
    answers = {key: _answer(entry.get(key), f"{where}: '{key}'") for key in ("chosen", "rejected")}
    if "conversations" in entry or "messages" in entry:
        asked = convert_sharegpt(entry, where, root)
        obj: dict[str, object] = {**asked.to_plain(), **answers}
        return parse_record(obj, where, root)
    question = entry.get("prompt", entry.get("question"))
    if isinstance(question, list) and question:
        question = _answer(question, f"{where}: 'prompt'")
    if not isinstance(question, str):
        raise DataError(f"{where}: 'prompt' must be a text")
    image = entry.get("images", entry.get("image"))
    images = image if isinstance(image, list) else [] if image is None else [image]
    if not all(isinstance(one, str | bytes) for one in images):
        raise DataError(f"{where}: 'image' must be a path or a list of paths")
    tags = question.count(TAG)
    if tags not in (0, len(images)):
        raise DataError(f"{where}: {tags} {TAG} tags but {len(images)} images")
    messages: list[dict[str, object]] = [
        {"role": "user", "content": split_tags(question, iter(images))}
    ]
    if images and not tags:
        show_first(messages, images, where)
    return parse_record({"messages": messages, "id": entry.get("id"), **answers}, where, root)


def _answer(value: object, where: str) -> str:
    last = value[-1] if isinstance(value, list) and value else value
    text = last.get("content", last.get("value")) if isinstance(last, Mapping) else last
    if isinstance(text, list):
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, Mapping))
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where} must be a text, or messages that end with one")
    return text
