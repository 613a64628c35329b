"""MIMIC-IT (Otter): instructions about sets of images, related ones merged into a conversation."""

import base64
import binascii
import hashlib
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from triptych.data.readers.base import Location, fields_of
from triptych.data.readers.members import Members
from triptych.data.schema import Record, parse_record
from triptych.errors import DataError


class MimicitTable:
    """Conversations of a MIMIC-IT file: each instruction with those related to it, used once.

    Args:
        path: the file, with ``data``: key -> instruction, answer, image_ids, rel_ins_ids.
        images: a folder of ``ID.jpg``, or a JSON file of key -> base64 image.

    Raises:
        DataError: a file is not as expected.
    """

    def __init__(self, path: Location, images: Path | None) -> None:
        self.items = Members(path, "data")
        stored = images is not None and images.suffix == ".json"
        self.images = Members(images) if stored and images is not None else None
        self.members, self.starts = _group(self.items)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def where(self, index: int) -> str:
        """Name of a conversation: that of its first instruction."""
        return self.items.where(int(self.members[self.starts[index]]))

    def read(self, index: int) -> object:
        """An entry with ``images`` and ``rounds``, in an order drawn from its name."""
        where = self.where(index)
        members = self.members[self.starts[index] : self.starts[index + 1]].tolist()
        items = [self.items.fields(k) for k in members]
        images = _names(items[0], "image_ids", where)
        draw = hashlib.blake2b(f"{members[0]}".encode(), digest_size=8).digest()
        order = np.random.default_rng(int.from_bytes(draw, "little")).permutation(len(items))
        rounds = [
            {"instruction": items[k].get("instruction"), "answer": items[k].get("answer")}
            for k in order.tolist()
        ]
        return {"images": [self._image(name, where) for name in images], "rounds": rounds}

    def _image(self, name: str, where: str) -> str | bytes:
        if self.images is None:
            return f"{name}.jpg"
        found = self.images.find(name)
        data = None if found is None else self.images.read(found)
        if not isinstance(data, str):
            raise DataError(f"{where}: image '{name[:60]}' is not in {self.images.path}")
        try:
            return base64.b64decode(data.rsplit(",", 1)[-1], validate=True)
        except (binascii.Error, ValueError):
            raise DataError(f"{where}: image '{name[:60]}' is not base64") from None


def convert_mimicit(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn images and rounds into a record: all images stand in the first round.

    Raises:
        DataError: an instruction or an answer is no text.
    """
    fields = fields_of(entry, where)
    rounds, images = fields.get("rounds"), fields.get("images")
    if not isinstance(rounds, list) or not rounds or not isinstance(images, list):
        raise DataError(f"{where}: 'rounds' and 'images' are expected")
    messages: list[dict[str, object]] = []
    for one in rounds:
        item = fields_of(one, f"{where}: a round")
        question, answer = item.get("instruction"), item.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str):
            raise DataError(f"{where}: 'instruction' and 'answer' must be texts")
        shown = [] if messages else [{"type": "image", "image": image} for image in images]
        text = question.replace("<image>", "").strip()
        content = [*shown, {"type": "text", "text": text}]
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": answer})
    return parse_record({"messages": messages}, where, root)


def _group(items: Members) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the instructions of each conversation, and where each begins among them.

    Only instructions about the same images are merged; the others keep their own images.
    """
    used = np.zeros(len(items), dtype=np.bool_)
    members, starts = array("q"), array("q", [0])
    for index in range(len(items)):
        if used[index]:
            continue
        item = items.fields(index)
        related = [items.find(name) for name in _names(item, "rel_ins_ids", items.where(index))]
        group = [index]
        for other in related:
            if other is None or used[other] or other in group:
                continue
            if items.fields(other).get("image_ids") == item.get("image_ids"):
                group.append(other)
        used[group] = True
        members.extend(group)
        starts.append(len(members))
    return np.array(members, dtype=np.int64), np.array(starts, dtype=np.int64)


def _names(item: Mapping[str, object], key: str, where: str) -> list[str]:
    names = item.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: '{key}' must be a list of texts")
    return names
