"""Captions and questions about single images: COCO captions, VQA lists, image and caption."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from triptych.data.readers.annotated import CocoImages, image_record
from triptych.data.readers.base import Location, Table, fields_of
from triptych.data.readers.members import Members, NumberIndex
from triptych.data.readers.offsets import first_byte
from triptych.data.readers.tables import open_table
from triptych.data.schema import Record
from triptych.errors import DataError

REQUESTS = (
    "Describe the image.",
    "Write a caption for this image.",
    "What does this image show?",
    "Say in one sentence what can be seen here.",
    "Give a short description of the picture.",
    "What is in the picture?",
    "Summarise this image in a sentence.",
    "How would you caption this photo?",
)


def convert_caption(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn an image with one caption or several into a record; the request depends on the entry.

    Raises:
        DataError: it has no image or no caption.
    """
    fields = fields_of(entry, where)
    caption = fields.get("caption", fields.get("captions", fields.get("text")))
    captions = caption if isinstance(caption, list) else [caption]
    texts = [text.strip() for text in captions if isinstance(text, str) and text.strip()]
    if not texts or len(texts) != len(captions):
        raise DataError(f"{where}: 'caption' must be a text or a list of texts")
    number = _draw(where)
    question, answer = REQUESTS[number % len(REQUESTS)], texts[number // 8 % len(texts)]
    return image_record(fields, [(question, answer)], where, root)


def convert_question(entry: object, where: str, root: Path | None = None) -> Record:
    """Turn a question about an image into a record; of several answers the most frequent counts.

    Raises:
        DataError: it has no image, question or answer.
    """
    fields = fields_of(entry, where)
    question = fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: 'question' must be a text")
    answer = fields.get("answer", fields.get("answers", fields.get("multiple_choice_answer")))
    answers = answer if isinstance(answer, list) else [answer]
    plain = [item.get("answer") if isinstance(item, Mapping) else item for item in answers]
    texts = [text.strip() for text in plain if isinstance(text, str) and text.strip()]
    if not texts or len(texts) != len(plain):
        raise DataError(f"{where}: 'answer' must be a text or a list of texts")
    frequent = Counter(texts).most_common(1)[0][0]
    return image_record(fields, [(question.strip(), frequent)], where, root)


class CocoCaptions(CocoImages):
    """Images with all their captions, from a COCO file."""

    def read(self, index: int) -> object:
        """An entry with ``image``, ``id`` and ``captions``."""
        image, found = self.look(index)
        captions = [caption.get("caption") for caption, _ in found]
        return {"image": image.get("file_name"), "id": image.get("id"), "captions": captions}


class VqaTable:
    """Questions with their answers, from the two files of a VQA release.

    Args:
        path: the file of ``questions``.
        answers: the file of ``annotations``.

    Raises:
        DataError: the answers are not named, or a file lacks its section.
    """

    def __init__(self, path: Location, answers: Location | None) -> None:
        if answers is None:
            raise DataError(
                f"{path}: holds questions without answers; name the file of annotations as "
                "'answers' of the source"
            )
        self.questions, self.answers = Members(path, "questions"), Members(answers, "annotations")
        self._answers = NumberIndex(self.answers, "question_id")

    def __len__(self) -> int:
        return len(self.questions)

    def where(self, index: int) -> str:
        """Name of a question for messages."""
        return self.questions.where(index)

    def read(self, index: int) -> object:
        """An entry with ``image``, ``question``, ``answer`` and ``id``."""
        question = self.questions.fields(index)
        number = question.get("question_id")
        found = self._answers.find(number) if isinstance(number, int) else []
        if not found:
            raise DataError(f"{self.where(index)}: question_id {number!r} has no answer")
        answer = self.answers.fields(found[0])
        image = question.get("image", question.get("image_id"))
        return {
            # COCO's own file names; other sets name the image in the question.
            "image": f"{image:012d}.jpg" if isinstance(image, int) else image,
            "question": question.get("question"),
            "answer": answer.get("multiple_choice_answer") or answer.get("answers"),
            "id": number,
        }


def open_captions(path: Location, answers: Location | None = None) -> Table:
    """A COCO file, or entries of image and caption each."""
    return CocoCaptions(path) if holds_section(path, "images") else open_table(path)


def open_questions(path: Location, answers: Location | None = None) -> Table:
    """The two files of a VQA release, or entries of image, question and answer each."""
    return VqaTable(path, answers) if holds_section(path, "questions") else open_table(path)


def holds_section(path: Location, section: str) -> bool:
    """Whether a file is one JSON object with this section, and not one object a line."""
    if not isinstance(path, Path) or path.suffix != ".json" or first_byte(path) != b"{":
        return False
    with path.open("rb") as file:
        head = file.readline(1 << 20)
    try:
        first = json.loads(head)
    except ValueError:
        return True
    return isinstance(first, dict) and section in first


def _draw(where: str) -> int:
    """A number that depends on the name of the entry alone: the same in every run and worker."""
    name = where.rsplit("/", 1)[-1].encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "little")
