"""The inference room with images outside the sequence: shared stems, kept caches, undo."""

import torch
from tests.model.tiny import TEXTS, answer, picture, tiny_spec, turn

from triptych.fusion import CrossFusion
from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec
from triptych.model.build import initialise


def make() -> Engine:
    fusion = CrossFusion(every=1, heads=4, head_width=8)
    spec = tiny_spec().model_copy(update={"fusion": fusion})
    model, processor = initialise(spec, texts=TEXTS)
    assert model.cross_layers is not None
    for name, parameter in model.cross_layers.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 1.0)
    return Engine(model.eval(), processor)


def test_shared_stems_change_no_answer() -> None:
    """A branch does not see the images that stand in its stem behind its own beginning."""
    engine = make()
    shared = [turn("what color?", picture(0), picture(1)), answer("yes")]
    questions = [[*shared, turn(text)] for text in ("is there a circle?", "no")]
    questions.append([*shared, turn("and here", picture(2)), answer("no"), turn("is there")])
    questions.append([*shared, turn("and here", picture(3))])
    questions.append([turn("no image at all")])
    sampling = SamplingSpec(max_new_tokens=6)
    apart = [engine.answer([one], sampling)[0] for one in questions]
    together = engine.complete(engine.requests(questions), sampling, share_prefixes=True)
    assert [one.text for one in together] == apart
    assert engine.answer([[turn("what color?"), answer("yes"), *questions[0][-1:]]]) != apart[:1]


def test_a_kept_cache_gives_the_same_answers() -> None:
    engine = make()
    sampling = SamplingSpec(max_new_tokens=5)
    answers = []
    for forgets in (False, True):
        conversation = Conversation(engine)
        conversation.reply("what color?", [picture(0)], sampling)
        conversation.reply("and here", [picture(2), picture(3)], sampling)
        conversation.undo()
        if forgets:
            conversation._kept.clear()
        answers.append(conversation.reply("and here", [picture(1)], sampling).text)
        assert [image.tokens for image in conversation.images] == [1, 1]
    assert len(set(answers)) == 1
