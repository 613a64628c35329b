"""What the engine is asked for, and what it answers."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from triptych.inference.vision import Picture
from triptych.model.prompt import Prompt

Message: TypeAlias = dict[str, Any]
"""A message in the chat-completions shape, as the processor takes it."""

FinishReason: TypeAlias = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True)
class Request:
    """A prompt ready to run.

    Attributes:
        prompt: tokens, with image placeholders expanded.
        pictures: one per image span of the prompt.
    """

    prompt: Prompt
    pictures: tuple[Picture, ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt.input_ids)

    def key(self, numbers: dict[str, int]) -> tuple[int, ...]:
        """The prompt as a sequence in which equal parts mean equal parts for the model.

        The placeholders of an image become a negative number of its content.

        Args:
            numbers: content hash -> negative number; new images are added to it.
        """
        key = list(self.prompt.input_ids)
        for (start, stop), picture in zip(self.prompt.spans, self.pictures, strict=True):
            number = numbers.setdefault(picture.key, -1 - len(numbers))
            key[start:stop] = [number] * (stop - start)
        return tuple(key)


@dataclass(frozen=True)
class Answer:
    """A generated answer.

    Attributes:
        text: decoded, without special tokens and without the stop string that ended it.
        tokens: the generated ids before the end token.
        prompt_tokens: tokens of the prompt, those of images included.
        finish_reason: "stop" (end token or stop string), "length", or "interrupted".
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
