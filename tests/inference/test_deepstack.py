"""The inference room with DeepStack: kept caches, shared stems, the image cache, two at once."""

from typing import Any

import pytest
import torch
from tests.fusion.deep import PRODUCERS, make_producer
from tests.inference.reuse import close
from tests.model.checks import LONG, SHORT, TALL, TEXT, WIDE, inputs
from tests.model.tiny import answer, picture, turn

from triptych.attention import ImageCache
from triptych.inference.conversation import Conversation
from triptych.inference.engine import Engine
from triptych.inference.growing import make_cache
from triptych.inference.prefill import Known, Part, run
from triptych.inference.sampling import SamplingSpec

SAMPLING = SamplingSpec(max_new_tokens=6)
KINDS = [(name, "causal") for name in PRODUCERS] + [("overview", "mmca")]


def engine_of(
    producer: str = "overview", *, cache: ImageCache | bool = False, **changes: Any
) -> Engine:
    return Engine(*make_producer(producer, **changes), image_cache=cache)


@pytest.mark.parametrize(("producer", "attention"), KINDS)
def test_shared_stems_change_no_answer(producer: str, attention: str) -> None:
    engine = engine_of(producer, attention=attention)
    shared = [turn("what color?", picture(0), picture(1, WIDE)), answer("yes")]
    questions = [[*shared, turn(text)] for text in ("is there a circle?", "no")]
    questions.append([*shared, turn("and here", picture(2, TALL)), answer("no"), turn("is there")])
    questions.append([*shared, turn("and here", picture(3))])
    questions.append([turn("no image at all")])
    apart = [engine.answer([one], SAMPLING)[0] for one in questions]
    together = engine.complete(engine.requests(questions), SAMPLING, share_prefixes=True)
    assert [one.text for one in together] == apart
    assert engine.answer(questions, SAMPLING) == apart


@pytest.mark.parametrize(("producer", "attention"), KINDS)
def test_a_kept_cache_gives_the_same_answers(producer: str, attention: str) -> None:
    engine = engine_of(producer, cache=attention == "mmca", attention=attention)
    answers = []
    for forgets in (False, True):
        conversation = Conversation(engine)
        conversation.reply("what color?", [picture(0, TALL)], SAMPLING)
        conversation.reply("and here", [picture(2), picture(3)], SAMPLING)
        conversation.undo()
        if forgets:
            conversation._kept.clear()
        answers.append(conversation.reply("and here", [picture(1)], SAMPLING).text)
    assert len(set(answers)) == 1


def next_logits(engine: Engine, conversation: Any) -> tuple[torch.Tensor, int]:
    """Logits of the next token by way of an engine's image cache, and how much came from it."""
    (request,) = engine.requests([conversation])
    cache = make_cache(engine.model)
    part = Part(request.prompt.input_ids, 0, request.pictures)
    step = engine.prefiller.prepare([part], cache, Known.nothing(1, engine.model.device))
    return run(engine.model, step, cache)[0], step.tokens_reused


@torch.no_grad()
@pytest.mark.parametrize("scope", ["self", "image"])
@pytest.mark.parametrize("producer", PRODUCERS)
def test_a_reused_image_brings_what_its_groups_added(scope: str, producer: str) -> None:
    """The keys and values that are kept were computed with the groups."""
    engine = engine_of(producer, cache=True, attention="mmca", image_scope=scope)
    whole = engine.model(**inputs(engine.processor, LONG)).logits[0, -1]
    visual = sum(engine.processor.count(*size) for size in ((20, 16), WIDE, TALL))
    for _ in range(2):
        logits, reused = next_logits(engine, LONG)
        assert reused == visual
        close(logits, whole)


def test_models_with_other_groups_do_not_share_images() -> None:
    """Two models with equal weights differ by their fusion alone."""
    cache = ImageCache(10**8)
    answers = []
    for start in (0, 1):
        fusion = {"kind": "deepstack", "start": start}
        engine = engine_of(cache=cache, fusion=fusion, attention="mmca")
        engine.answer([LONG], SAMPLING)
        answers.append(cache.misses)
    assert answers == [3, 6]
    assert cache.hits == 0


@pytest.mark.parametrize("producer", PRODUCERS)
def test_two_conversations_at_once(producer: str) -> None:
    """Token by token in turn: neither changes what the other says."""
    engine = engine_of(producer)
    questions = [LONG[0], SHORT[0], TEXT[0]]
    alone = [engine.answer([[one]], SAMPLING)[0] for one in questions]
    talks = [Conversation(engine) for _ in questions]
    running = [
        talk.ask(one["content"], sampling=SAMPLING)
        for talk, one in zip(talks, questions, strict=True)
    ]
    while running:
        running = [stream for stream in running if next(stream, None) is not None]
    assert [talk.rounds[-1].answer.text for talk in talks] == alone
