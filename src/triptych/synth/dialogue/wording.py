"""How a question in a dialogue says which image it is about."""

import random
from collections.abc import Sequence

from triptych.data.tags import tag
from triptych.synth.dialogue.rounds import Conversation

SAME = ("About the same image: {q}", "Still in that image: {q}", "And there: {q}")
LAST = ("In the last image: {q}", "The image that came last: {q}")
BEFORE = ("In the image before that one: {q}", "One image earlier: {q}")
NAMED = ("In {tag}: {q}", "{q} Look at {tag}.", "Now {tag}. {q}")
WHICH = (
    'For which image is the answer to "{q}" this: {answer}?',
    'I asked "{q}". Of which image would one say: {answer}?',
)
BACK = 0.5
"""Share of the questions that can refer to something said before, and do."""


def word_rounds(conversation: Conversation, rng: random.Random) -> list[str]:
    """The questions of a conversation, each saying which image it is about.

    By its number or ordinal, or by reference to what was said before: the same image as in the last
    round, the one before it, the one that came last.
    """
    texts = []
    arrived = 0
    previous: int | None = None
    for one in conversation.rounds:
        arrived += len(one.arrivals)
        number = conversation.images.index(one.question.image) + 1
        template = _refer(number, previous, arrived, rng)
        if template is None:
            family = rng.choice(("ordinals", "numbers"))
            name = tag(number - 1, "ordinals" if family == "ordinals" else "numbers")
            template = rng.choice(NAMED).replace("{tag}", name)
        texts.append(template.replace("{q}", one.question.text))
        previous = number
    return texts


def _refer(number: int, previous: int | None, arrived: int, rng: random.Random) -> str | None:
    fitting: list[Sequence[str]] = []
    if previous is not None and number == previous:
        fitting.append(SAME)
    if previous is not None and number == previous - 1:
        fitting.append(BEFORE)
    if number == arrived > 1 and previous != number:
        fitting.append(LAST)
    if not fitting or rng.random() >= BACK:
        return None
    return rng.choice(rng.choice(fitting))
