"""A question with its answer, as most builders make them."""

from collections.abc import Sequence
from dataclasses import dataclass

from triptych.data.schema import ImagePart, Message, TextPart


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Attributes:
        category: the kind of question, for scores by category.
    """

    question: str
    answer: str
    category: str

    def messages(self, *shown: ImagePart) -> tuple[Message, Message]:
        """The round of a conversation, with images before the question."""
        user = Message("user", (*shown, TextPart(self.question)))
        return user, Message("assistant", (TextPart(self.answer),), category=self.category)


def one_of(options: Sequence[str]) -> str:
    """'a, b or c'."""
    return " or ".join(filter(None, [", ".join(options[:-1]), options[-1]]))
