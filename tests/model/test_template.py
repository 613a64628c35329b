from typing import Any

import pytest
from tests.model.tiny import TEXTS

from triptych.errors import DataError, RecipeError
from triptych.language import TrainedTokenizer, train_tokenizer
from triptych.model.template import Segment, choose_family, end_token, read_template, render

ALL = ["chatml", "llama3", "mistral", "phi3", "gemma", "compact", "plain"]
VARIABLES = {
    "image_token": "<image>",
    "image_start": "<image_start>",
    "image_end": "<image_end>",
    "bos_token": "<s>",
    "end_token": "</s>",
    "numbered": "before",
    "tags": False,
}
IMAGE = {"type": "image", "image": "a.png"}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [IMAGE, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "Red."},
    {"role": "user", "content": [{"type": "text", "text": "And"}, IMAGE, IMAGE]},
    {"role": "assistant", "content": [{"type": "text", "text": "Blue."}]},
]


def rendered(family: str, messages: Any, *, prompt: bool = False, **changes: Any) -> list[Segment]:
    return render(
        read_template(family),
        messages,
        add_generation_prompt=prompt,
        variables={**VARIABLES, **changes},
    )


@pytest.mark.parametrize("family", ALL)
def test_only_answers_and_their_end_are_generated(family: str) -> None:
    generated = [s for s in rendered(family, CONVERSATION) if s.message is not None]
    assert [s.message for s in generated] == [2, 4]
    assert [s.text.strip().split(".")[0] for s in generated] == ["Red", "Blue"]
    assert all(len(s.text.split(".")[1]) > 2 for s in generated), "the end token is supervised"


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_prompt_is_a_prefix_of_the_training_text(family: str, rounds: int) -> None:
    """Golden: the segments of rounds 1..k in training equal the prompt's at inference."""
    messages = CONVERSATION[: 2 * rounds]
    prompt = rendered(family, messages, prompt=True)
    whole = rendered(family, CONVERSATION)
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt)].message == 2 * rounds


@pytest.mark.parametrize("family", ALL)
def test_images_are_numbered_over_the_whole_conversation(family: str) -> None:
    text = "".join(s.text for s in rendered(family, CONVERSATION))
    places = [text.index(f"Image {k}:<image>\n") for k in (1, 2, 3)]
    assert places == sorted(places)
    plain = "".join(s.text for s in rendered(family, CONVERSATION, numbered="no", tags=True))
    assert "Image 1" not in plain
    assert plain.count("<image_start><image><image_end>") == 3


def test_numbers_may_stand_after_the_images() -> None:
    text = "".join(s.text for s in rendered("compact", CONVERSATION, numbered="after"))
    assert "<image> 1\nWhat?" in text
    assert "And<image> 2<image> 3" in text


@pytest.mark.parametrize("family", ALL)
def test_documents_are_supervised_whole(family: str) -> None:
    document = [{"role": "document", "content": [{"type": "text", "text": "A"}, IMAGE]}]
    generated = [s for s in rendered(family, document) if s.message is not None]
    assert [s.text for s in generated] == ["AImage 1:<image>\n</s>"]


def test_placeholder_in_a_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"message 1 \(user\) has the placeholder '<image>'"):
        rendered("chatml", [{"role": "user", "content": "what is <image>"}])


def test_families_are_told_by_their_control_tokens() -> None:
    tokenizer = train_tokenizer(TEXTS, TrainedTokenizer(vocabulary=300))
    assert choose_family("auto", tokenizer) == "phi3"
    assert choose_family("compact", tokenizer) == "compact"
    assert end_token("phi3", tokenizer) == "<|end|>"
    with pytest.raises(RecipeError, match="'chatml' ends an answer with"):
        end_token("chatml", tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert choose_family("auto", tokenizer) == "chatml"
