"""Sparkles dialogues: turns that name their images ``IMAGE#id`` and bring them along."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from triptych.data.readers.llava import split_tags
from triptych.data.schema import Record, parse_record
from triptych.data.tags import FAMILIES, retag
from triptych.errors import DataError

HERE = "<Img><ImageHere></Img>"


def convert_sparkles(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn a Sparkles dialogue into a record; images may come in any round.

    The names of the images are rewritten in one tag family, drawn from the name of the entry.

    Raises:
        DataError: a turn is not as expected, or names an image that was not brought.
    """
    dialogue = entry.get("dialogue") if isinstance(entry, Mapping) else None
    if not isinstance(dialogue, list) or not dialogue:
        raise DataError(f"{where}: 'dialogue' must be a list with at least one turn")
    draw = hashlib.blake2b(where.rsplit("/", 1)[-1].encode("utf-8", "surrogatepass")).digest()
    family = FAMILIES[draw[0] % 3]
    names: dict[str, int] = {}
    messages: list[dict[str, object]] = []
    for index, turn in enumerate(dialogue):
        place = f"{where}: dialogue[{index}]"
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            raise DataError(f"{place}: an object with 'role' and 'content' is expected")
        images = list(_images(turn, place))
        for image in images:
            names.setdefault(f"IMAGE#{image}", len(names))
        text = retag(str(turn["content"]), names, family)
        if "IMAGE#" in text:
            raise DataError(f"{place}: names an image that no turn up to it has brought")
        messages.append({"role": turn.get("role"), "content": _content(text, images, place)})
    identity = entry.get("id") if isinstance(entry, Mapping) else None
    return parse_record({"messages": messages, "id": identity}, where, root)


def _images(turn: Mapping[str, object], where: str) -> Iterator[str]:
    images = turn.get("images") or []
    if not isinstance(images, list):
        raise DataError(f"{where}: 'images' must be a list")
    for image in images:
        number = image.get("image_id") if isinstance(image, Mapping) else None
        if not isinstance(number, int | str) or isinstance(number, bool) or number == "":
            raise DataError(f"{where}: each image needs an 'image_id'")
        yield str(number)


def _content(text: str, images: list[str], where: str) -> str | list[dict[str, object]]:
    files = [f"{image}.jpg" for image in images]
    here = text.count(HERE)
    if here not in (0, len(files)):
        raise DataError(f"{where}: {here} places for {len(files)} images")
    if here:
        return split_tags(text, iter(files), HERE)
    shown: list[dict[str, object]] = [{"type": "image", "image": file} for file in files]
    return [*shown, {"type": "text", "text": text}] if shown else text
