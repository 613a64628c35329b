"""Engine: a model, its processor, and batched answers.

Shape suffixes: B batch, S sequence.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from triptych.attention import ImageCache
from triptych.errors import ContextError, RecipeError
from triptych.inference.branching import decode_branches
from triptych.inference.folder import find_model
from triptych.inference.growing import make_cache
from triptych.inference.prefill import Known, Part, Prefiller, Step
from triptych.inference.requests import Answer, Message, Request
from triptych.inference.reuse import ImageReuse
from triptych.inference.sampling import SamplingSpec
from triptych.inference.stems import batch_stems, plan_stems
from triptych.inference.text import clean, cut_at_stop, decode
from triptych.inference.vision import Picture, VisionCache
from triptych.model.build import load_pretrained
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor, image_sources

_IMAGE_CACHE_BYTES = 2**30


class Engine:
    """Answers conversations in batches; each image is opened and encoded once.

    Args:
        model: a model, put into evaluation mode while it answers.
        processor: its processor.
        batch_tokens: padded tokens of a batch, answers included; bounds the memory of the cache.
        image_cache: where keys and values of images are kept, and may be shared by engines; True
            makes one of 1 GiB where the model allows it, False is without.

    Attributes:
        reuse: the images that are known, or None without an image cache.
        no_reuse: why the model has no image cache, where it was left to the model.
        tokens_run: prompt tokens that went through the language model so far.
        tokens_reused: visual tokens that were taken from the image cache instead.

    Raises:
        RecipeError: an image cache is given, but an image of this model depends on what stands
            around it.
    """

    def __init__(
        self,
        model: TriptychForConditionalGeneration,
        processor: TriptychProcessor,
        *,
        batch_tokens: int = 16384,
        image_cache: ImageCache | bool = True,
    ) -> None:
        self.model = model
        self.processor = processor
        self.batch_tokens = batch_tokens
        self.vision = VisionCache(model, processor)
        self.no_reuse = ""
        self.reuse = self._open_cache(image_cache)
        self.prefiller = Prefiller(model, self.vision, self.reuse, processor.pad_token_id)
        self.tokens_run = 0
        self.tokens_reused = 0
        self._text_config: dict[str, Any] = model.config.get_text_config().to_dict()
        self.stop_ids = self._find_stop_ids()

    @property
    def context(self) -> int | None:
        """Most tokens of a sequence, prompt and answer; None when the model names no limit."""
        for name in ("max_position_embeddings", "n_positions"):
            limit = self._text_config.get(name)
            if isinstance(limit, int):
                return limit
        return None

    @property
    def shares_prefixes(self) -> bool:
        """Whether every layer sees every earlier token, so that stems can be shared."""
        kinds = set(self._text_config.get("layer_types") or ["full_attention"])
        window = self._text_config.get("sliding_window")
        windowed = window is not None and self._text_config.get("use_sliding_window") is not False
        return kinds == {"full_attention"} and not windowed

    def answer(
        self, conversations: Sequence[Sequence[Message]], sampling: SamplingSpec | None = None
    ) -> list[str]:
        """Answer each conversation; see ``respond``."""
        return [answer.text for answer in self.respond(conversations, sampling)]

    def respond(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: SamplingSpec | None = None,
        *,
        share_prefixes: bool = False,
    ) -> list[Answer]:
        """Answer conversations of any number of images, text-only ones among them.

        Args:
            conversations: messages in the chat-completions shape, the last one the user's.
            sampling: how tokens are chosen; greedy when left out.
            share_prefixes: see ``complete``.

        Returns:
            One answer per conversation, in the order given.

        Raises:
            ContextError: a conversation with room for its answer exceeds the context.
            ImageError: an image is missing or cannot be read.
        """
        requests = self.requests(conversations)
        return self.complete(requests, sampling, share_prefixes=share_prefixes)

    def requests(
        self, conversations: Sequence[Sequence[Message]], *, add_generation_prompt: bool = True
    ) -> list[Request]:
        """Tokenise conversations; of images only headers and hashes are read, once for each path.

        Args:
            conversations: messages in the chat-completions shape.
            add_generation_prompt: open an assistant turn at the end.
        """
        sources = [image_sources(messages) for messages in conversations]
        looked = iter(self.vision.look_all([one for row in sources for one in row]))
        requests = []
        for messages, row in zip(conversations, sources, strict=True):
            pictures = tuple(next(looked) for _ in row)
            prompt = self.processor.encode(
                messages,
                [picture.size for picture in pictures],
                add_generation_prompt=add_generation_prompt,
            )
            requests.append(Request(prompt, pictures))
        return requests

    def complete(
        self,
        requests: Sequence[Request],
        sampling: SamplingSpec | None = None,
        *,
        share_prefixes: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Answer prompts, batched by length within ``batch_tokens``.

        Args:
            requests: prompts with their images.
            sampling: how tokens are chosen; greedy when left out.
            share_prefixes: run what prompts have in common once (see ``stems``); the answers are
                the same. Used for greedy decoding where the model allows it.
            progress: called after each batch with the number of prompts it had.
        """
        spec = sampling or SamplingSpec()
        for number, request in enumerate(requests, start=1):
            self.check_context(request.length, spec.max_new_tokens, f"conversation {number}")
        plain = spec.greedy and spec.repetition_penalty == 1.0 and not spec.stop
        tokens: dict[int, list[int]] = {}
        with self.evaluating(), torch.no_grad():
            if share_prefixes and plain and self.shares_prefixes:
                batches = self._complete_shared(requests, spec)
            else:
                batches = self._complete_whole(requests, spec)
            for batch in batches:
                tokens |= batch
                if progress is not None:
                    progress(len(batch))
        return [
            self.finish(tokens[index], request.length, spec)
            for index, request in enumerate(requests)
        ]

    def check_context(self, prompt: int, answer: int, who: str) -> None:
        """Refuse what does not fit.

        Raises:
            ContextError: ``prompt`` + ``answer`` tokens exceed the context.
        """
        if self.context is not None and prompt + answer > self.context:
            raise ContextError(
                f"{who}: {prompt} tokens of the conversation and {answer} for the answer make "
                f"{prompt + answer}, but the model has a context of {self.context}; shorten the "
                "conversation, use fewer images, or lower max_new_tokens"
            )

    def finish(self, tokens: Sequence[int], prompt_tokens: int, spec: SamplingSpec) -> Answer:
        """Make an answer of generated ids, which may go on behind the end token."""
        ends = [at for at, token in enumerate(tokens) if token in self.stop_ids]
        own = tuple(tokens[: ends[0]] if ends else tokens)
        decoded = decode(self.processor.tokenizer, own)
        text = clean(decoded, spec.stop)[0]
        stopped = bool(ends) or cut_at_stop(decoded, spec.stop)[1]
        return Answer(text, own, prompt_tokens, "stop" if stopped else "length")

    def read_images(self, pictures: Sequence[Picture]) -> None:
        """Make sure that a pass over these images will find their pixels.

        Raises:
            ImageError: an image cannot be decoded.
        """
        if self.reuse is None:
            self.vision.features(pictures)
        else:
            self.reuse.read(pictures)

    def count(self, step: Step) -> None:
        """Add up what a pass over prompt tokens ran and reused."""
        self.tokens_run += step.tokens_run
        self.tokens_reused += step.tokens_reused

    def _open_cache(self, wanted: ImageCache | bool) -> ImageReuse | None:
        if wanted is False:
            return None
        cache = ImageCache(_IMAGE_CACHE_BYTES) if wanted is True else wanted
        try:
            with self.evaluating():
                return ImageReuse(self.model, self.processor, self.vision, cache)
        except RecipeError as error:
            if wanted is not True:
                raise
            self.no_reuse = str(error)
            return None

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch the model to evaluation mode, and back to what it was."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def _find_stop_ids(self) -> frozenset[int]:
        """The chat template's end token and the end tokens of tokenizer and model."""
        found: list[int | None] = [self.processor.end_token_id]
        found.append(self.processor.tokenizer.eos_token_id)
        if self.model.generation_config is not None:
            eos = self.model.generation_config.eos_token_id
            found.extend(eos if isinstance(eos, list) else [eos])
        return frozenset(int(token) for token in found if token is not None)

    def batches(self, requests: Sequence[Request], room: int) -> list[list[int]]:
        """Indices sorted by length, cut where rows x longest would exceed the budget."""
        batches: list[list[int]] = []
        for index in sorted(range(len(requests)), key=lambda index: requests[index].length):
            width = requests[index].length + room
            if not batches or (len(batches[-1]) + 1) * width > self.batch_tokens:
                batches.append([])
            batches[-1].append(index)
        return batches

    def _complete_whole(
        self, requests: Sequence[Request], spec: SamplingSpec
    ) -> Iterator[dict[int, list[int]]]:
        for batch in self.batches(requests, spec.max_new_tokens):
            rows = self._generate([requests[index] for index in batch], spec)
            yield dict(zip(batch, rows, strict=True))

    def _generate(self, requests: Sequence[Request], spec: SamplingSpec) -> list[list[int]]:
        device = self.model.device
        cache = make_cache(self.model)
        parts = [Part(request.prompt.input_ids, 0, request.pictures) for request in requests]
        step = self.prefiller.prepare(parts, cache, Known.nothing(len(parts), device))
        inputs = step.whole()
        with _seeded(spec, device):
            output = self.model.generate(
                **inputs,
                past_key_values=cache,
                generation_config=spec.generation_config(
                    self.stop_ids, self.processor.pad_token_id
                ),
                tokenizer=self.processor.tokenizer if spec.stop else None,
            )
        self.count(step)
        rows: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
        return rows

    def _complete_shared(
        self, requests: Sequence[Request], spec: SamplingSpec
    ) -> Iterator[dict[int, list[int]]]:
        numbers: dict[str, int] = {}
        lengths = [request.length + spec.max_new_tokens for request in requests]
        limit = max(1, self.batch_tokens // max(lengths, default=1))
        stems = plan_stems([request.key(numbers) for request in requests], limit=limit)
        for batch in batch_stems(stems, lengths, self.batch_tokens):
            tokens, steps = decode_branches(
                self.prefiller,
                requests,
                batch,
                stop_ids=self.stop_ids,
                max_new_tokens=spec.max_new_tokens,
            )
            for step in steps:
                self.count(step)
            yield tokens


def load_engine(
    path: str | Path,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    batch_tokens: int = 16384,
    image_cache_mb: int | None = None,
) -> Engine:
    """Open a trained model.

    Args:
        path: a model folder (``config.json`` and weights), or a run folder, whose ``model/`` is
            opened.
        device: such as "cuda:0"; the first GPU, else the CPU, when left out.
        dtype: number type of the weights; as saved when left out.
        batch_tokens: see ``Engine``.
        image_cache_mb: memory for images that are computed once, 0 for none; when left out, 1024
            where the model allows it.

    Raises:
        RecipeError: the model's images cannot be reused, but memory for them is given.
        CheckpointError: neither was found; the message says what was looked for.
    """
    model, processor = load_pretrained(find_model(path))
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device=torch.device(chosen), dtype=dtype or model.dtype)
    model.eval()
    cache = image_cache_mb is None if not image_cache_mb else ImageCache(image_cache_mb * 10**6)
    return Engine(model, processor, batch_tokens=batch_tokens, image_cache=cache)


@contextmanager
def _seeded(spec: SamplingSpec, device: torch.device) -> Iterator[None]:
    """Seed the global generators for a while when sampling has a seed."""
    if spec.greedy or spec.seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)
        yield
