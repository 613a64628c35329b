"""Questions: every answer of a record that counts is one question."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.images.decode import ImageInput
from triptych.inference.requests import Message


@dataclass(frozen=True)
class Question:
    """An answer to be given again, and what stands before it.

    Attributes:
        record: index of its record among those judged.
        turn: index of the answer's message in the record.
        text: text of the message before, for people.
        expected: the reference answer.
        category: as the record says; None when it says nothing.
        images: number of images that stand before the answer.
    """

    record: int
    turn: int
    text: str
    expected: str
    category: str | None
    images: int


def questions_of(record: Record, index: int) -> list[Question]:
    """The questions of a record; answers whose ``loss`` is false are context only.

    Raises:
        DataError: an answer holds an image, which no text can match.
    """
    questions = []
    images = 0
    for turn, message in enumerate(record.messages):
        if message.role == "assistant" and message.loss:
            if message.images:
                raise DataError(
                    f"{record.where}: messages[{turn}] is an answer with an image; only texts "
                    "can be compared, so set its 'loss' to false"
                )
            asked = record.messages[turn - 1].text if turn else ""
            questions.append(Question(index, turn, asked, message.text, message.category, images))
        images += len(message.images)
    return questions


def messages_of(record: Record, images: Sequence[ImageInput] | None = None) -> list[Message]:
    """The record's messages for the processor, with other images in the places of its own."""
    messages: list[Message] = record.to_messages()
    if images is None:
        return messages
    left = iter(images)
    return [{**message, "content": _swapped(message["content"], left)} for message in messages]


def _swapped(
    content: str | list[dict[str, Any]], left: Iterator[ImageInput]
) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [
        {"type": "image", "image": next(left)} if part["type"] == "image" else part
        for part in content
    ]


def prompt_before(
    messages: Sequence[Message], turn: int, own: Mapping[int, str] | None = None
) -> list[Message]:
    """What the model sees before it gives the answer at ``turn``.

    Args:
        messages: all messages of the record.
        turn: index of the answer.
        own: the model's own earlier answers by their turn, put in the place of the references.
    """
    given = own or {}
    return [
        {**message, "content": given[place]} if place in given else message
        for place, message in enumerate(messages[:turn])
    ]
