"""ShareGPT: ``conversations`` of from/value, or ``messages`` of role/content, with image tags.

The images are a list beside the text (``images`` or ``image``); ``system`` may stand apart.
"""

from collections.abc import Mapping
from pathlib import Path

from triptych.data.readers.llava import convert_entry
from triptych.data.schema import Record
from triptych.errors import DataError

SPEAKERS = {
    "user": "human",
    "human": "human",
    "assistant": "gpt",
    "gpt": "gpt",
    "chatgpt": "gpt",
    "model": "gpt",
    "bot": "gpt",
    "system": "system",
}


def convert_sharegpt(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn a ShareGPT entry into a record.

    Raises:
        DataError: it holds no conversation, or its tags and images differ in number.
    """
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: an object with 'conversations' is expected, not a bare value")
    key = next((key for key in ("conversations", "conversation", "messages") if key in entry), None)
    if key is None:
        raise DataError(f"{where}: 'conversations' is missing (or 'messages')")
    turns = entry[key]
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: '{key}' must be a list with at least one turn")
    plain = [_turn(turn, f"{where}: {key}[{index}]") for index, turn in enumerate(turns)]
    system = entry.get("system")
    if isinstance(system, str) and system and plain[0]["from"] != "system":
        plain.insert(0, {"from": "system", "value": system})
    images = entry.get("images", entry.get("image"))
    return convert_entry({**entry, "conversations": plain, "image": images}, where, root)


def _turn(turn: object, where: str) -> dict[str, object]:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where}: an object with 'from' and 'value' is expected")
    speaker = turn.get("from", turn.get("role"))
    text = turn.get("value", turn.get("content"))
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise DataError(
            f"{where}: the speaker is {ascii(speaker)[:60]}; one of {', '.join(SPEAKERS)} "
            "is expected"
        )
    if not isinstance(text, str):
        raise DataError(f"{where}: 'value' (or 'content') must be a text")
    return {"from": SPEAKERS[speaker], "value": text}
