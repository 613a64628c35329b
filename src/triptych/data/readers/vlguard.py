"""VLGuard (Zong et al., 2024): images with instructions that are to be refused, or answered.

An unsafe image has one ``instruction``, to be refused. A safe one has two: a ``safe_instruction``,
to be answered, and an ``unsafe_instruction``, to be refused. Each becomes a record of its own, of
category ``unsafe image``, ``safe`` or ``unsafe instruction``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triptych.data.readers.base import Location, Table
from triptych.data.readers.tables import open_table
from triptych.data.schema import Record, parse_record
from triptych.errors import DataError

KINDS = {
    "instruction": "unsafe image",
    "safe_instruction": "safe",
    "unsafe_instruction": "unsafe instruction",
}
PAIRS = "instr-resp"


class VlguardTable:
    """The instructions of all entries, one after the other.

    Args:
        table: the entries, read once to count their instructions.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._places = [
            (entry, pair) for entry in range(len(table)) for pair in range(self._count(entry))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def where(self, index: int) -> str:
        """Name of an instruction for messages."""
        entry, pair = self._places[index]
        return f"{self.table.where(entry)} (instruction {pair + 1})"

    def read(self, index: int) -> object:
        """The entry with one instruction of its list under ``instr-resp``."""
        entry, pair = self._places[index]
        fields = self.table.read(entry)
        pairs = fields.get(PAIRS) if isinstance(fields, Mapping) else None
        if not isinstance(pairs, list) or not pairs:
            return fields
        return {**fields, PAIRS: pairs[pair]} if isinstance(fields, Mapping) else fields

    def _count(self, entry: int) -> int:
        """Instructions of an entry; a bad one counts as one, so that its error is reported."""
        try:
            fields = self.table.read(entry)
        except DataError:
            return 1
        pairs = fields.get(PAIRS) if isinstance(fields, Mapping) else None
        return len(pairs) if isinstance(pairs, list) and pairs else 1


def open_vlguard(path: Location, answers: Location | None = None) -> Table:
    """The instructions of a file of VLGuard."""
    return VlguardTable(open_table(path))


def convert_vlguard(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn an image and one instruction into a record.

    Raises:
        DataError: a part is missing or not a text.
    """
    fields = entry if isinstance(entry, Mapping) else {}
    pair = fields.get(PAIRS)
    if not isinstance(pair, Mapping):
        raise DataError(
            f"{where}: '{PAIRS}' must be a list of objects with an instruction and a 'response'"
        )
    found = [name for name in KINDS if isinstance(pair.get(name), str)]
    if len(found) != 1 or not isinstance(pair.get("response"), str):
        raise DataError(
            f"{where}: expected one of {', '.join(KINDS)} and a 'response', found the keys "
            f"{', '.join(map(str, pair)) or 'none'}"
        )
    image = fields.get("image")
    if not isinstance(image, str | bytes):
        raise DataError(f"{where}: 'image' must be a path")
    asked = [{"type": "image", "image": image}, {"type": "text", "text": pair[found[0]]}]
    named = ("safe", "harmful_category", "harmful_subcategory")
    record: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": pair["response"]},
        ],
        "id": fields.get("id"),
        "category": KINDS[found[0]],
        "metadata": {name: fields[name] for name in named if name in fields},
    }
    return parse_record(record, where, root)
