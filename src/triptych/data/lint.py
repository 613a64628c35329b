"""Checking every record of a file before it is trained on."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from triptych.data.readers import open_reader
from triptych.data.readers.base import Reader
from triptych.data.roles import role_errors
from triptych.data.schema import ImagePart, Record
from triptych.errors import DataError, ImageError
from triptych.images.decode import DEFAULT_LIMITS, ImageLimits, open_image

if TYPE_CHECKING:
    from triptych.model.processing import TriptychProcessor

Progress: TypeAlias = Callable[[int, int], None]
Sizes: TypeAlias = list[tuple[int, int]]
Level: TypeAlias = Literal["error", "warning"]

HINTS = {
    "record": "mend or remove the record; docs/data.md shows the format",
    "roles": "put the messages in order: system, then user and assistant in turns",
    "image": "put the file where the record says, or give the folder of the images",
    "supervised": "add an answer, or take away 'loss': false",
    "unanswered": "answer the last question or remove it: it costs tokens and teaches nothing",
    "empty": "write an answer: an empty one teaches the model to say nothing",
    "long": "raise max_tokens, or set data.overflow to drop or trim_rounds",
    "tokens": "mend the record so that the model's chat template takes it",
    "assumed": "put <image> tags where the images belong if this is not what you want",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a record.

    Attributes:
        where: "file:line".
        kind: a key of ``HINTS``.
        message: what was found.
    """

    where: str
    level: Level
    kind: str
    message: str

    @property
    def hint(self) -> str:
        """How to mend it."""
        return HINTS[self.kind]


@dataclass
class LintReport:
    """What a file holds and what is wrong with it."""

    path: str
    records: int = 0
    images: int = 0
    text_only: int = 0
    rounds: int = 0
    tokens: int | None = None
    longest: int | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Problems that would stop or skip a sample in training."""
        return sum(problem.level == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        """Problems that training would accept."""
        return len(self.problems) - self.errors

    def to_json(self) -> dict[str, object]:
        """The whole report as a JSON object."""
        plain = asdict(self)
        plain["problems"] = [{**asdict(p), "hint": p.hint} for p in self.problems]
        kinds = Counter(problem.kind for problem in self.problems)
        return {**plain, "errors": self.errors, "warnings": self.warnings, "kinds": dict(kinds)}


def lint(
    path: Path,
    reader: str = "jsonl",
    images: Path | None = None,
    *,
    processor: "TriptychProcessor | None" = None,
    max_tokens: int | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> LintReport:
    """Check every record: parse, roles, images decoded, something supervised, tokens.

    Args:
        path: the file.
        reader: its format.
        images: the folder that relative image paths start from; the file's folder when None.
        processor: counts tokens when given.
        max_tokens: the context that no record may be over; needs ``processor``.
        limits: largest image that is opened.
        progress: called with the records done and their number.

    Raises:
        DataError: when the file itself cannot be read.
    """
    records = open_reader(path, reader, images)
    linter = _Linter(LintReport(str(path)), processor, max_tokens, limits)
    for index in range(len(records)):
        linter.check(records, index)
        if progress is not None:
            progress(index + 1, len(records))
    return linter.report


class _Linter:
    def __init__(
        self,
        report: LintReport,
        processor: "TriptychProcessor | None",
        max_tokens: int | None,
        limits: ImageLimits,
    ) -> None:
        self.report, self.processor = report, processor
        self.max_tokens, self.limits = max_tokens, limits
        # Files seen before: their size, or what is wrong with them.
        self.seen: dict[str, tuple[int, int] | str] = {}

    def check(self, records: Reader, index: int) -> None:
        """Check one record and add what was found to the report."""
        self.report.records += 1
        where = records.where(index)
        try:
            record = records[index].settled()
        except DataError as error:
            self._add(where, "error", "record", str(error).removeprefix(f"{where}: "))
            return
        self.report.images += len(record.images)
        self.report.text_only += not record.images
        self.report.rounds += sum(message.role == "user" for message in record.messages)
        for level, kind, message in _conversation(record):
            self._add(where, level, kind, message)
        sizes = self._check_images(record)
        # A text with the placeholder was named above; the processor would only refuse it again.
        if self.processor is not None and sizes is not None and not _is_refused(record):
            self._check_tokens(record, sizes, self.processor)

    def _add(self, where: str, level: Level, kind: str, message: str) -> None:
        self.report.problems.append(Problem(where, level, kind, message))

    def _check_images(self, record: Record) -> Sizes | None:
        """Decode every image; their sizes, or None when one is bad."""
        found = [self._look(part) for part in record.images]
        for number, result in enumerate(found, start=1):
            if isinstance(result, str):
                self._add(record.where, "error", "image", f"image {number}: {result}")
        sizes = [result for result in found if not isinstance(result, str)]
        return sizes if len(sizes) == len(found) else None

    def _look(self, part: ImagePart) -> tuple[int, int] | str:
        location = part.location
        name = "" if isinstance(location, bytes) else str(location)
        if name in self.seen:
            return self.seen[name]
        result: tuple[int, int] | str
        try:
            result = open_image(location, limits=self.limits).size
        except ImageError as error:
            result = str(error)
        if name and not name.startswith("data:"):
            self.seen[name] = result
        return result

    def _check_tokens(self, record: Record, sizes: Sizes, processor: "TriptychProcessor") -> None:
        try:
            prompt = processor.encode(record.to_messages(), sizes)
        except DataError as error:
            self._add(record.where, "error", "tokens", str(error))
            return
        count = len(prompt.input_ids)
        self.report.tokens = (self.report.tokens or 0) + count
        self.report.longest = max(self.report.longest or 0, count)
        if self.max_tokens is not None and count > self.max_tokens:
            self._add(record.where, "error", "long", f"{count} tokens, more than {self.max_tokens}")


def _is_refused(record: Record) -> bool:
    return bool(role_errors(record.messages)) or any("<image>" in m.text for m in record.messages)


def _conversation(record: Record) -> Iterator[tuple[Level, str, str]]:
    for note in record.notes:
        yield "warning", "assumed", note
    wrong = role_errors(record.messages)
    for message in wrong:
        yield "error", "roles", message
    learned = [m for m in record.messages if m.learned]
    if not any(message.text.strip() for message in learned):
        yield "error", "supervised", "nothing is supervised: no answer with text is in the loss"
    for index, part in enumerate(record.messages):
        if part.role == "assistant" and part.learned and not part.text.strip():
            yield "warning", "empty", f"messages[{index}] is an empty answer"
        if "<image>" in part.text:
            yield "error", "tokens", f"messages[{index}] has '<image>' in its text, not as a part"
    if not wrong and record.messages[-1].role == "user":
        yield "warning", "unanswered", "the last question has no answer"
