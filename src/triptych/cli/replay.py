"""`triptych replay`: the questions of a record, the model's answers, and the right ones beside."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from triptych.cli.options import ImageCacheMb
from triptych.data.readers import open_reader
from triptych.data.readers.base import Reader
from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.evaluation.metrics import exact_match
from triptych.inference import Conversation, SamplingSpec, load_engine


@dataclass(frozen=True)
class Exchange:
    """A question of the record, the model's answer, and the record's own."""

    images: tuple[str, ...]
    question: str
    answer: str
    reference: str

    @property
    def right(self) -> bool:
        """Whether the answers are the same, normalised as `triptych eval` does."""
        return exact_match(self.answer, self.reference)


def replay(
    model: Annotated[Path, typer.Argument(help="A model folder or a run folder.")],
    data: Annotated[Path, typer.Option(help="A file of records.")],
    reader: Annotated[str, typer.Option(help="Format of the file.")] = "jsonl",
    index: Annotated[int, typer.Option(min=0, help="Number of the record, from 0.")] = 0,
    images: Annotated[
        int | None, typer.Option(min=0, help="Take the next record with so many images.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead.")] = False,
    image_cache_mb: ImageCacheMb = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")] = None,
) -> None:
    """Hold the conversation of a record with a model, and show the right answers beside its own.

    The model's own answers stay in the conversation, right or wrong.
    """
    record = find_record(open_reader(data, reader), data, index, images)
    turns = turns_of(record)
    disable_progress_bar()
    engine = load_engine(model, device=device, image_cache_mb=image_cache_mb)
    talk = Conversation(engine, system_of(record), SamplingSpec(max_new_tokens=max_new_tokens))
    exchanges = list(hold(talk, turns))
    if as_json:
        rounds = [vars(one) | {"right": one.right} for one in exchanges]
        typer.echo(json.dumps({"record": record.where, "rounds": rounds}, ensure_ascii=False))
    else:
        show(Console(), record, exchanges)


def find_record(records: Reader, path: Path, index: int, images: int | None) -> Record:
    """The record at ``index``, or the first one from there on that has so many images.

    Raises:
        DataError: there is no such record.
    """
    for place in range(index, len(records)):
        record = records[place]
        if images is None or len(record.images) == images:
            return record
    wanted = f"with {images} images from record {index} on" if images is not None else str(index)
    raise DataError(f"{path}: no record {wanted}; the file has {len(records)} records")


def system_of(record: Record) -> str:
    """The system text of a conversation, or nothing."""
    first = record.messages[0]
    return first.text if first.role == "system" else ""


def turns_of(record: Record) -> list[tuple[list[dict[str, Any]], str]]:
    """The parts of every question, with the right answer.

    Raises:
        DataError: the record is not a conversation of questions and answers.
    """
    messages = [message for message in record.messages if message.role != "system"]
    users, answers = messages[0::2], messages[1::2]
    roles = [message.role for message in messages]
    if not roles or roles != ["user", "assistant"] * len(answers):
        raise DataError(
            f"{record.where}: found the roles {', '.join(roles) or 'none'}; "
            "a conversation of user and assistant in turn can be replayed"
        )
    plain = [one for one in record.to_messages() if one["role"] == "user"]
    return [
        (_parts(message["content"]), answer.text)
        for message, answer, _ in zip(plain, answers, users, strict=True)
    ]


def hold(talk: Conversation, turns: list[tuple[list[dict[str, Any]], str]]) -> Iterator[Exchange]:
    """Ask the questions one after the other in one conversation."""
    for parts, reference in turns:
        answer = talk.reply(parts)
        images = tuple(str(part["image"]) for part in parts if part["type"] == "image")
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        yield Exchange(images, text, answer.text, reference)


def show(console: Console, record: Record, exchanges: list[Exchange]) -> None:
    """Print the conversation as a table, the images by number above it."""
    console.print(f"conversation {escape(record.id or record.where)}", highlight=False)
    table = Table("round", "question", "model", "right answer", "")
    number = 0
    for turn, one in enumerate(exchanges, 1):
        for image in one.images:
            number += 1
            console.print(
                f"  image {number} (from round {turn}): {escape(image)}",
                highlight=False,
                soft_wrap=True,
            )
        mark = "[green]✓[/]" if one.right else "[red]✗[/]"
        table.add_row(str(turn), *map(escape, (one.question, one.answer, one.reference)), mark)
    console.print(table)
    console.print(f"{sum(one.right for one in exchanges)} of {len(exchanges)} answers are right")


def _parts(content: object) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": str(content)}]
