"""The inference room with an attention rule of our own: shared stems and kept caches."""

from tests.model.tiny import TEXTS, picture, tiny_spec, turn

from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec
from triptych.model.build import initialise


def make() -> Engine:
    model, processor = initialise(tiny_spec().model_copy(update={"attention": "mmca"}), texts=TEXTS)
    return Engine(model, processor)


def test_shared_stems_change_no_answer() -> None:
    engine = make()
    shared = [turn("what color?", picture(0), picture(1))]
    questions = [
        [*shared, {"role": "assistant", "content": "yes"}, turn(text)]
        for text in ("is there a circle?", "no", "what color is the shape?")
    ]
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
