"""The inference room with an attention rule of our own: shared stems and kept caches."""

import pytest
from tests.model.tiny import TEXTS, picture, tiny_spec, turn

from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec
from triptych.model.build import initialise
from triptych.model.spec import TemplateSpec


def make(scope: str = "self") -> Engine:
    """An engine whose images stand side by side: no number is between them."""
    spec = tiny_spec(template=TemplateSpec(family="compact"))
    change = {"attention": "mmca", "image_scope": scope}
    model, processor = initialise(spec.model_copy(update=change), texts=TEXTS)
    return Engine(model, processor)


@pytest.mark.parametrize("scope", ["self", "image"])
def test_shared_stems_change_no_answer(scope: str) -> None:
    """Questions part behind the images, and between two images that touch."""
    engine = make(scope)
    shared = [turn("what color?", picture(0), picture(1))]
    questions = [
        [*shared, {"role": "assistant", "content": "yes"}, turn(text)]
        for text in ("is there a circle?", "no", "what color is the shape?")
    ]
    more = [*shared, {"role": "assistant", "content": "yes"}]
    questions += [[*more, turn("and?", picture(0), picture(last))] for last in (1, 2)]
    questions.append([turn("no image at all")])
    sampling = SamplingSpec(max_new_tokens=6)
    apart = engine.answer(questions, sampling)
    requests = engine.requests(questions)
    together = engine.complete(requests, sampling, share_prefixes=True)
    assert [one.text for one in together] == apart


def test_a_kept_cache_gives_the_same_answers() -> None:
    engine = make()
    sampling = SamplingSpec(max_new_tokens=5)
    answers = []
    for forgets in (False, True):
        conversation = Conversation(engine)
        conversation.reply("what color?", [picture(0)], sampling)
        if forgets:
            conversation._kept.clear()
        answers.append(conversation.reply("and here", [picture(1)], sampling).text)
        conversation.undo()
        answers.append(conversation.reply("and here", [picture(1)], sampling).text)
    assert len(set(answers)) == 1
