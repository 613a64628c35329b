"""Conversation: rounds over any number of images, with the KV cache kept between rounds.

The state is always consistent: ``ids`` are all tokens of the conversation, and the cache holds the
first of them. Whatever interrupts a stream, the next round runs what the cache lacks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from triptych.errors import ContextError, DataError
from triptych.images.decode import ImageInput
from triptych.inference.engine import Engine
from triptych.inference.kept import KeptCache
from triptych.inference.portable import portable
from triptych.inference.requests import Answer, FinishReason, Message
from triptych.inference.sampling import Sampler, SamplingSpec
from triptych.inference.text import TextStream
from triptych.inference.vision import Picture
from triptych.model.processing import image_sources
from triptych.model.prompt import Prompt


@dataclass
class Round:
    """A user turn and its answer.

    Attributes:
        user: the user's message.
        pictures: its images.
        start: tokens of the conversation before this round.
        prompt_tokens: tokens of the conversation when its answer began.
        stream: the answer as far as it has been generated.
        finish_reason: why the answer ended; "interrupted" while it has not.
        prefilled_tokens: tokens that went through the language model before the answer began.
        reused_tokens: visual tokens whose keys and values were taken from the image cache instead.
    """

    user: Message
    pictures: list[Picture]
    start: int
    prompt_tokens: int
    stream: TextStream
    finish_reason: FinishReason = "interrupted"
    prefilled_tokens: int = 0
    reused_tokens: int = 0

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        tokens = tuple(self.stream.ids)
        return Answer(self.stream.text, tokens, self.prompt_tokens, self.finish_reason)


@dataclass
class _Plan:
    """What a new round needs: the rounds kept, and either tokens to add or a fresh start."""

    kept: list[Round]
    prompt: Prompt
    new: list[int]
    rebuild: bool


@dataclass(frozen=True)
class NumberedImage:
    """An image of the conversation, under the number that texts refer to it by."""

    number: int
    picture: Picture
    tokens: int


@dataclass
class Conversation:
    """A conversation with a model.

    Args:
        engine: the model.
        system: text of the system message; none when empty.
        sampling: used where a round brings no options of its own.
        drop_oldest: drop the oldest rounds, with their images, when the context is full; without
            it a full context is an error. Images are then numbered as the conversation stands.
    """

    engine: Engine
    system: str = ""
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    drop_oldest: bool = False

    def __post_init__(self) -> None:
        self.rounds: list[Round] = []
        self.dropped = 0
        self.ids: list[int] = []
        self._spans: list[tuple[int, int]] = []
        self._kept = KeptCache(self.engine)

    @property
    def images(self) -> list[NumberedImage]:
        """All images, numbered from 1 over the conversation."""
        pictures = [picture for one in self.rounds for picture in one.pictures]
        count = self.engine.processor.count
        return [NumberedImage(n, p, count(*p.size)) for n, p in enumerate(pictures, start=1)]

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are in the cache."""
        return self._kept.tokens

    def messages(self) -> list[Message]:
        """The conversation in the chat-completions shape."""
        return self._messages(self.rounds)

    def ask(
        self,
        content: str | Sequence[dict[str, Any]],
        images: Sequence[ImageInput] = (),
        sampling: SamplingSpec | None = None,
    ) -> Iterator[str]:
        """Open a round; its answer comes as text pieces that join to ``rounds[-1].answer.text``.

        Args:
            content: the user's text, or parts in the chat-completions shape with images anywhere.
            images: images put before ``content``.
            sampling: options of this round.

        Raises:
            ContextError: the round does not fit; raised before anything has run or changed.
            ImageError: an image cannot be read; nothing has changed.
        """
        spec = sampling or self.sampling
        user = _user_message(content, images)
        pictures = self.engine.vision.look_all(image_sources([user]))
        plan = self._fit(user, pictures, spec)
        self.engine.read_images(pictures)
        current = self._open(plan, user, pictures, spec)
        return self._stream(current, spec)

    def reply(
        self,
        content: str | Sequence[dict[str, Any]],
        images: Sequence[ImageInput] = (),
        sampling: SamplingSpec | None = None,
    ) -> Answer:
        """Like ``ask``, but return the whole answer."""
        for _ in self.ask(content, images, sampling):
            pass
        return self.rounds[-1].answer

    def undo(self) -> bool:
        """Take back the last round; its tokens leave the cache. False when there is none."""
        if not self.rounds:
            return False
        last = self.rounds.pop()
        self.ids = self.ids[: last.start]
        self._spans = self._spans[: len(self._spans) - len(last.pictures)]
        self._kept.crop(last.start)
        if not self.rounds:
            self._forget()
        return True

    def clear(self) -> None:
        """Begin anew; the system message stays."""
        self.rounds = []
        self.dropped = 0
        self._forget()

    def record(self) -> dict[str, Any]:
        """The conversation as a record of our JSON format.

        Images given as paths are written as absolute paths, others as data URIs. Empty answers
        are kept out of the loss.

        Raises:
            DataError: no round has an answer yet.
        """
        if not any(one.stream.text for one in self.rounds):
            raise DataError("there is no answered round to save yet")
        messages = []
        for message in self.messages():
            content = portable(message["content"])
            silent = message["role"] == "assistant" and not content
            messages.append({**message, "content": content} | ({"loss": False} if silent else {}))
        return {"source": "triptych chat", "messages": messages}

    def _messages(self, rounds: Sequence[Round]) -> list[Message]:
        messages: list[Message] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for one in rounds:
            messages += [one.user, {"role": "assistant", "content": one.stream.text}]
        return messages

    def _encode(
        self, rounds: Sequence[Round], user: Message, pictures: Sequence[Picture]
    ) -> Prompt:
        """Tokens of earlier rounds and the new question, up to where its answer begins."""
        sizes = [picture.size for one in rounds for picture in one.pictures]
        sizes += [picture.size for picture in pictures]
        messages = [*self._messages(rounds), user]
        return self.engine.processor.encode(messages, sizes, add_generation_prompt=True)

    def _fit(self, user: Message, pictures: Sequence[Picture], spec: SamplingSpec) -> _Plan:
        """Plan the round so that it fits the context, dropping the oldest rounds where allowed."""
        prompt = self._encode(self.rounds, user, pictures)
        new = prompt.input_ids[_last_end(prompt) :]
        plan = _Plan(list(self.rounds), prompt, new, rebuild=False)
        while True:
            needed = len(plan.new) + (0 if plan.rebuild else len(self.ids))
            try:
                self.engine.check_context(needed, spec.max_new_tokens, "this round")
            except ContextError:
                if not self.drop_oldest or not plan.kept:
                    raise
            else:
                return plan
            kept = plan.kept[1:]
            prompt = self._encode(kept, user, pictures)
            plan = _Plan(kept, prompt, prompt.input_ids, rebuild=True)

    def _open(
        self, plan: _Plan, user: Message, pictures: list[Picture], spec: SamplingSpec
    ) -> Round:
        """Append the round and its tokens; the cache is not touched yet unless rounds went."""
        if plan.rebuild:
            self._restart(plan)
        start = len(self.ids)
        shift = start + len(plan.new) - len(plan.prompt.input_ids)
        fresh = plan.prompt.spans[len(plan.prompt.spans) - len(pictures) :]
        self._spans += [(first + shift, last + shift) for first, last in fresh]
        self.ids = self.ids + plan.new
        stream = TextStream(self.engine.processor.tokenizer, spec.stop)
        self.rounds.append(Round(user, pictures, start, len(self.ids), stream))
        return self.rounds[-1]

    def _restart(self, plan: _Plan) -> None:
        """Stand as if only the kept rounds had been; their tokens come from their texts."""
        self.dropped += len(self.rounds) - len(plan.kept)
        self.rounds = plan.kept
        self._forget()
        if not plan.kept:
            return
        ends = _ends(plan.prompt)
        for one, end in zip(plan.kept[1:], ends, strict=False):
            one.start = end
        plan.kept[0].start = 0
        self.ids = plan.prompt.input_ids[: ends[-1]]
        self._spans = [span for span in plan.prompt.spans if span[1] <= ends[-1]]
        plan.new = plan.prompt.input_ids[ends[-1] :]

    def _stream(self, current: Round, spec: SamplingSpec) -> Iterator[str]:
        """Generate the answer of ``current`` while it is the last round."""
        sampler = Sampler(spec, self.engine.model.device)
        for _ in range(spec.max_new_tokens):
            if not self.rounds or self.rounds[-1] is not current:
                return
            logits = self._run()
            if not current.stream.ids and self._kept.latest is not None:
                current.prefilled_tokens = self._kept.latest.tokens_run
                current.reused_tokens = self._kept.latest.tokens_reused
                self.engine.count(self._kept.latest)
            sequence = torch.tensor([self.ids], device=logits.device)
            token = int(sampler(sequence, logits))
            if token in self.engine.stop_ids:
                current.finish_reason = "stop"
                break
            self.ids.append(token)
            piece = current.stream.push(token)
            if current.stream.stopped:
                current.finish_reason = "stop"
            if piece:
                yield piece
            if current.stream.stopped:
                break
        else:
            current.finish_reason = "length"
        rest = current.stream.flush()
        if rest:
            yield rest

    def _run(self) -> Tensor:
        """Run the tokens the cache lacks; return the logits (1, vocabulary) of the next one."""
        pictures = [picture for one in self.rounds for picture in one.pictures]
        images = list(zip(self._spans, pictures, strict=True))
        return self._kept.run(self.ids, images)

    def _forget(self) -> None:
        self.ids = []
        self._spans = []
        self._kept.clear()


def _user_message(content: str | Sequence[dict[str, Any]], images: Sequence[ImageInput]) -> Message:
    parts = [{"type": "image", "image": image} for image in images]
    if isinstance(content, str):
        if not parts:
            return {"role": "user", "content": content}
        return {"role": "user", "content": [*parts, {"type": "text", "text": content}]}
    return {"role": "user", "content": [*parts, *content]}


def _ends(prompt: Prompt) -> list[int]:
    """Place of the end token of each answer in ``prompt``."""
    following = [*prompt.supervised[1:], False]
    return [
        place
        for place, (here, after) in enumerate(zip(prompt.supervised, following, strict=True))
        if here and not after
    ]


def _last_end(prompt: Prompt) -> int:
    """Place of the last answer's end token; 0 when there is no answer yet.

    The tokens from there on are the same whatever tokens the answer itself was generated with, so
    a round adds exactly them to the tokens that are already in the cache.
    """
    return max(_ends(prompt), default=0)
