"""What a record looks like to the model: images with their numbers, and what is supervised."""

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from triptych.data.roles import role_errors
from triptych.data.schema import ImagePart, Record
from triptych.errors import DataError, ImageError
from triptych.images.decode import image_size

if TYPE_CHECKING:
    from triptych.model.processing import TriptychProcessor
    from triptych.model.prompt import Prompt

OPEN, CLOSE = "»", "«"
LEGEND = f"{OPEN} {CLOSE} supervised: the model learns to write this"


@dataclass(frozen=True)
class ImageView:
    """An image of a conversation.

    Attributes:
        number: counted over the whole conversation from 1.
        size: width and height in pixels; None when the image cannot be opened.
        tokens: visual tokens; None without a processor.
        problem: why it cannot be opened.
    """

    number: int
    part: ImagePart
    size: tuple[int, int] | None = None
    tokens: int | None = None
    problem: str = ""

    def __str__(self) -> str:
        if self.size is None:
            return f"[image {self.number}: {self.problem}]"
        shown = f"[image {self.number}: {self.part.name}, {self.size[0]}x{self.size[1]}"
        return shown + ("]" if self.tokens is None else f", {self.tokens} tokens]")


@dataclass(frozen=True)
class TextView:
    """A stretch of text that is in the loss or is not."""

    text: str
    supervised: bool


Piece: TypeAlias = ImageView | TextView


@dataclass(frozen=True)
class View:
    """A record ready to be shown.

    Attributes:
        turns: role and pieces of each message; with a processor one turn without a role that holds
            the text exactly as the model sees it.
        tokens: all tokens and the supervised ones; None without a processor.
        problems: why the record could not be trained on.
    """

    where: str
    turns: tuple[tuple[str, tuple[Piece, ...]], ...]
    tokens: tuple[int, int] | None = None
    problems: tuple[str, ...] = ()

    @property
    def images(self) -> list[ImageView]:
        """Every image in reading order."""
        pieces = [piece for _, turn in self.turns for piece in turn]
        return [piece for piece in pieces if isinstance(piece, ImageView)]

    @property
    def title(self) -> str:
        """One line about the record."""
        title = f"{self.where}: {len(self.images)} image(s)"
        if self.tokens is not None:
            title += f", {self.tokens[0]} tokens, {self.tokens[1]} supervised"
        return title


def view(record: Record, processor: "TriptychProcessor | None" = None) -> View:
    """Prepare a record to be shown.

    Args:
        record: any record; what is wrong with it becomes part of the view.
        processor: when given, the view holds the exact tokens; else the messages as written.
    """
    record = record.settled()
    problems = role_errors(record.messages)
    images = [_look(number, part, processor) for number, part in enumerate(record.images, start=1)]
    problems += [str(image) for image in images if image.size is None]
    if processor is not None and not problems:
        sizes = [image.size for image in images if image.size is not None]
        try:
            prompt = processor.encode(record.to_messages(), sizes)
        except DataError as error:
            problems.append(str(error))
        else:
            pieces = tuple(_token_pieces(prompt, images, processor))
            if not any(prompt.supervised):
                problems.append("nothing is supervised")
            counts = len(prompt.input_ids), sum(prompt.supervised)
            return View(record.where, (("", pieces),), counts, tuple(problems))
    if not any(message.learned and message.text.strip() for message in record.messages):
        problems.append("nothing is supervised")
    left = iter(images)
    turns = tuple(
        (
            message.role,
            tuple(
                next(left) if isinstance(part, ImagePart) else TextView(part.text, message.learned)
                for part in message.content
            ),
        )
        for message in record.messages
    )
    return View(record.where, turns, problems=tuple(problems))


def _look(number: int, part: ImagePart, processor: "TriptychProcessor | None") -> ImageView:
    try:
        size = image_size(part.location)
    except ImageError as error:
        return ImageView(number, part, problem=str(error))
    return ImageView(number, part, size, None if processor is None else processor.count(*size))


def _token_pieces(
    prompt: "Prompt", images: list[ImageView], processor: "TriptychProcessor"
) -> list[Piece]:
    """The tokens as text, cut where supervision changes; each span becomes its image."""
    owner: dict[int, int] = {}
    for number, (start, stop) in enumerate(prompt.spans):
        owner.update(dict.fromkeys(range(start, stop), number))
    pieces: list[Piece] = []
    places = range(len(prompt.input_ids))
    for (image, supervised), run in groupby(
        places, lambda place: (owner.get(place), prompt.supervised[place])
    ):
        if image is not None:
            pieces.append(images[image])
            continue
        ids = [prompt.input_ids[place] for place in run]
        pieces.append(TextView(str(processor.tokenizer.decode(ids)), supervised))
    return pieces


def visible(text: str) -> str:
    """The text with control characters spelled out, so that it cannot steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def render(shown: View) -> RenderableType:
    """The view for a terminal: supervised text is marked by colour and by » «."""
    body = Text()
    for role, pieces in shown.turns:
        if role:
            body.append(f"{role}: ", style="bold")
        for piece in pieces:
            if isinstance(piece, ImageView):
                style = "red" if piece.size is None else "cyan"
                body.append(visible(str(piece)), style=style)
            elif piece.supervised:
                body.append(f"{OPEN}{visible(piece.text)}{CLOSE}", style="bold green")
            else:
                body.append(visible(piece.text))
        body.append("\n" if role else "")
    body.rstrip()
    notes = [Text(f"problem: {visible(problem)}", style="bold red") for problem in shown.problems]
    title, legend = Text(visible(shown.title)), Text(LEGEND, style="dim")
    return Group(Panel(body, title=title, title_align="left", subtitle=legend), *notes)
