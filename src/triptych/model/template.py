"""From messages to text segments, in the format of the language model's family.

The jinja template that is saved with the processor is the only definition of the format: training,
chat, evaluation and serving render with it. ``{% generation %}`` marks what is supervised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from triptych.errors import DataError, RecipeError
from triptych.model.spec import Family

IMAGE_TOKEN, IMAGE_START, IMAGE_END = "<image>", "<image_start>", "<image_end>"

# The control token that gives a family away, and the token that ends an answer
# (None: the tokenizer's own end token). The order matters: first match wins.
_FAMILIES: dict[str, tuple[str, str | None]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "mistral": ("[INST]", None),
    "phi3": ("<|assistant|>", "<|end|>"),
}


@dataclass(frozen=True)
class Segment:
    """A stretch of rendered text; segments are tokenised one by one.

    ``message`` is the index of the assistant or document message that a generated segment belongs
    to, None for everything else.
    """

    text: str
    message: int | None = None


def choose_family(family: Family, tokenizer: PreTrainedTokenizerBase) -> str:
    """Name the chat format of a tokenizer; ``auto`` looks at its control tokens."""
    if family != "auto":
        return family
    vocabulary = tokenizer.get_vocab()
    found = (name for name, (marker, _) in _FAMILIES.items() if marker in vocabulary)
    return next(found, "plain")


def end_token(family: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that ends an answer in ``family``.

    Raises:
        RecipeError: the tokenizer does not have it.
    """
    token = _FAMILIES.get(family, ("", None))[1] or tokenizer.eos_token
    if token is None or token not in tokenizer.get_vocab():
        raise RecipeError(
            f"model.template.family: '{family}' ends an answer with {token!r}, which the tokenizer "
            "does not have; choose another family"
        )
    return str(token)


def read_template(family: str) -> str:
    """Read the jinja text of a family, with the shared rendering of contents before it."""
    folder = files("triptych.model") / "templates"
    shared = (folder / "_content.jinja").read_text(encoding="utf-8")
    return shared + (folder / f"{family}.jinja").read_text(encoding="utf-8")


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> list[Segment]:
    """Render a conversation into segments, in order; their texts join to the whole text.

    Args:
        template: jinja text with ``{% generation %}`` blocks.
        messages: chat-completions messages; image parts become ``image_token``.
        add_generation_prompt: open an assistant turn at the end.
        variables: values that the template uses (``image_token``, ``numbered``, ...).

    Raises:
        DataError: a text contains the image placeholder, or the template refuses the messages.
    """
    _refuse_placeholders(messages)
    try:
        (text,), (spans,) = render_jinja_template(
            conversations=[list(messages)],
            chat_template=template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
    except TemplateError as error:
        raise DataError(f"the chat template does not take these messages: {error}") from error
    owners = [i for i, m in enumerate(messages) if m["role"] in ("assistant", "document")]
    return _cut(text, spans, owners)


def _cut(text: str, spans: Sequence[tuple[int, int]], owners: Sequence[int]) -> list[Segment]:
    segments, last = [], 0
    for (start, stop), owner in zip(spans, owners, strict=True):
        if start > last:
            segments.append(Segment(text[last:start]))
        segments.append(Segment(text[start:stop], owner))
        last = stop
    if last < len(text):
        segments.append(Segment(text[last:]))
    return segments


def _refuse_placeholders(messages: Sequence[Mapping[str, Any]]) -> None:
    for number, message in enumerate(messages, start=1):
        content = message["content"]
        parts = [content] if isinstance(content, str) else [p.get("text", "") for p in content]
        if any(IMAGE_TOKEN in text for text in parts):
            raise DataError(
                f"message {number} ({message['role']}) has the placeholder {IMAGE_TOKEN!r} in its "
                "text; give images as image parts, or read the file with the 'llava' reader"
            )
