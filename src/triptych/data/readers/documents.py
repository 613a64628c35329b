"""Interleaved documents: parallel lists (OBELICS, MINT-1T), or texts with placed images (MMC4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from triptych.data.schema import Record, parse_record
from triptych.errors import DataError

EXPECTED = "'texts' and 'images' of equal length, or 'text_list' and 'image_info', are expected"


def convert_document(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn an interleaved document into a record of one message.

    Parallel lists hold a text or an image at each place and null in the other list. MMC4 names the
    text that an image belongs to; the image is shown before it.

    Raises:
        DataError: the lists do not fit together.
    """
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: a document must be an object; {EXPECTED}")
    if "text_list" in entry:
        parts = _placed(entry, where)
    elif "texts" in entry and "images" in entry:
        parts = _parallel(entry, where)
    else:
        raise DataError(f"{where}: {EXPECTED}")
    if not parts:
        raise DataError(f"{where}: the document holds neither text nor image")
    identity = entry.get("id", entry.get("document_id"))
    obj = {"messages": [{"role": "document", "content": parts}], "id": identity}
    return parse_record(obj, where, root)


def _parallel(entry: Mapping[str, object], where: str) -> list[dict[str, object]]:
    texts, images = _list(entry, "texts", where), _list(entry, "images", where)
    if len(texts) != len(images):
        raise DataError(f"{where}: {len(texts)} texts but {len(images)} images; {EXPECTED}")
    parts: list[dict[str, object]] = []
    for index, (text, image) in enumerate(zip(texts, images, strict=True)):
        if text is not None and image is not None:
            raise DataError(f"{where}: place {index} holds a text and an image; one must be null")
        if image is not None:
            parts.append({"type": "image", "image": image})
        elif text is not None and text != "":
            parts.append({"type": "text", "text": text})
    return parts


def _placed(entry: Mapping[str, object], where: str) -> list[dict[str, object]]:
    texts, images = _list(entry, "text_list", where), _list(entry, "image_info", where)
    before: dict[int, list[object]] = {}
    for index, info in enumerate(images):
        if not isinstance(info, Mapping):
            raise DataError(f"{where}: image_info[{index}] must be an object")
        place = info.get("matched_text_index")
        if not isinstance(place, int) or not 0 <= place < len(texts):
            raise DataError(
                f"{where}: image_info[{index}]: 'matched_text_index' must be a number below "
                f"{len(texts)}"
            )
        before.setdefault(place, []).append(info.get("image_name"))
    parts: list[dict[str, object]] = []
    for index, text in enumerate(texts):
        parts += [{"type": "image", "image": image} for image in before.get(index, ())]
        # The texts are sentences without the space between them.
        last = index + 1 == len(texts) or not isinstance(text, str)
        parts.append({"type": "text", "text": text if last else f"{text} "})
    return parts


def _list(entry: Mapping[str, object], key: str, where: str) -> Sequence[object]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise DataError(f"{where}: '{key}' must be a list; {EXPECTED}")
    return value
