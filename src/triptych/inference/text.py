"""TextStream: text pieces out of a stream of token ids."""

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a tokenizer decodes to where the bytes of a character are not complete."""


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of generated tokens, special tokens left out and spaces left as they are."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return cast(str, text)


def clean(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """An answer out of decoded text: cut at a stop string, white space around it removed.

    Templates may put a space before an answer, which the model then generates.
    """
    text, stopped = cut_at_stop(text, stops)
    return text.strip(), stopped


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """``text`` up to the first stop string in it, and whether one was found."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


class TextStream:
    """Turns tokens into text pieces that, joined, are the whole text.

    A piece is held back while its last character is incomplete (a character may be spread over
    several tokens), while its end may be the beginning of a stop string, or while it is white
    space with nothing after it.

    Attributes:
        ids: the tokens pushed so far.
        stopped: whether a stop string has been met.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._sent = ""

    @property
    def text(self) -> str:
        """The whole text so far, up to a stop string if one has been met."""
        return clean(decode(self._tokenizer, self.ids), self._stops)[0]

    def push(self, token: int) -> str:
        """Take one token; return the text that is now certain, often empty."""
        self.ids.append(token)
        text, self.stopped = cut_at_stop(decode(self._tokenizer, self.ids), self._stops)
        if not self.stopped:
            text = text[: len(text) - self._held_back(text)].rstrip(UNFINISHED)
        return self._advance(text.strip())

    def flush(self) -> str:
        """Return what was held back."""
        return self._advance(self.text)

    def _advance(self, text: str) -> str:
        if not text.startswith(self._sent):
            return ""
        piece = text[len(self._sent) :]
        self._sent = text
        return piece

    def _held_back(self, text: str) -> int:
        """Characters at the end of ``text`` that may begin a stop string."""
        return max(
            (
                size
                for stop in self._stops
                for size in range(1, len(stop))
                if text.endswith(stop[:size])
            ),
            default=0,
        )
