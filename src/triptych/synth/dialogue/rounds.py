"""Conversations about images from single questions: which image arrives when, who is asked what.

Knows nothing of files: images are numbers, and a builder turns rounds into records.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

OPPOSITE = {"yes": "no", "no": "yes"}
NEGATIONS = frozenset({"no", "not"})
# The number stands last: a small model finds it there at once, where it opens the answer.
REFERENCES = (
    "{q} In image {n}",
    "{q} Look at image {n}",
)


@dataclass(frozen=True)
class Question:
    """One question about one image.

    Attributes:
        image: the number of the image.
        category: the kind of question, for scores by category.
    """

    image: int
    text: str
    answer: str
    category: str

    @property
    def negated(self) -> bool:
        """Whether the question has 'not' or 'no' in it."""
        return not NEGATIONS.isdisjoint(self.text.split())


@dataclass(frozen=True)
class Style:
    """How images and questions become conversations.

    With more than one question per image, later answers can often be read off earlier ones (a
    shape already called red is not blue), and a model may learn to read instead of to look: one
    is the default, and the rule of held-out conversations.

    Attributes:
        images: how often a conversation has so many images, as relative weights.
        rounds_per_image: questions taken from each image of a conversation, at most.
        rounds: rounds of a conversation, at most.
        late: probability that the last image of several arrives after the first round.
        references: ways to name the image of a question; ``{n}`` counts from 1.
        name_single: probability that the image is named where it is the only one.
        categories: the kinds of question used; None for all.
        negations: whether questions with 'not' or 'no' in them are used.
        balance: how many questions of the more frequent answer are kept for each one of the rarer
            answer, per yes/no question text; None keeps all.
    """

    images: Mapping[int, float] = field(default_factory=lambda: {1: 1, 2: 1, 3: 1, 4: 1})
    rounds_per_image: int = 1
    rounds: int = 10
    late: float = 0.3
    references: Sequence[str] = REFERENCES
    name_single: float = 0.0
    categories: frozenset[str] | None = None
    negations: bool = True
    balance: float | None = 1.0

    def uses(self, question: Question) -> bool:
        """Whether the style has questions of this kind."""
        known = self.categories is None or question.category in self.categories
        return known and (self.negations or not question.negated)


@dataclass(frozen=True)
class Round:
    """One round: the numbers of the images that arrive with it, the question, the answer."""

    arrivals: tuple[int, ...]
    text: str
    question: Question


@dataclass(frozen=True)
class Conversation:
    """Rounds over images.

    Attributes:
        images: the numbers of the images in the order in which they arrive.
        rounds: what is asked, in order.
    """

    images: tuple[int, ...]
    rounds: tuple[Round, ...]


def conversations(
    questions: Sequence[Question], style: Style, passes: int, rng: random.Random
) -> Iterator[Conversation]:
    """Conversations in which every image takes part once per pass.

    Each pass thins out the yes/no questions anew, groups the images anew and words the questions
    anew, so that more passes bring more variety. Images left over at the end of a pass that are
    fewer than any conversation of the style has are left out.
    """
    counts, weights = list(style.images), list(style.images.values())
    for _ in range(passes):
        by_image: dict[int, list[Question]] = defaultdict(list)
        for question in balanced(questions, style, rng):
            by_image[question.image].append(question)
        images = sorted(by_image)
        rng.shuffle(images)
        while len(images) >= min(counts):
            count = min(rng.choices(counts, weights)[0], len(images))
            yield converse([images.pop() for _ in range(count)], by_image, style, rng)


def balanced(questions: Sequence[Question], style: Style, rng: random.Random) -> Iterator[Question]:
    """Keep the wanted categories, and of each yes/no text as many of one answer as of the other.

    easy-VQA asks 'is there a circle?' with the answer no twice as often as with yes: with
    ``balance=1`` a 'no' is then kept with probability 1/2 and every 'yes' is kept.
    """
    counts = Counter((question.text, question.answer) for question in questions)
    for question in questions:
        if not style.uses(question):
            continue
        if question.answer in OPPOSITE and style.balance is not None:
            own = counts[question.text, question.answer]
            other = counts[question.text, OPPOSITE[question.answer]]
            if rng.random() >= style.balance * other / own:
                continue
        yield question


def converse(
    images: Sequence[int],
    questions: Mapping[int, Sequence[Question]],
    style: Style,
    rng: random.Random,
    due: Mapping[int, int] | None = None,
) -> Conversation:
    """Plan the rounds over ``images``; a round asks about an image that has already arrived.

    Args:
        images: numbers of the images in the order in which they arrive.
        questions: what can be asked about each.
        style: how many questions about an image, and how many rounds, at most.
        rng: draws everything.
        due: the round in which each image arrives, counted from 0, by its place from 1; drawn as
            the style says where it is not given.
    """
    asked: list[tuple[int, Question]] = []
    for number, image in enumerate(images, 1):
        mine = rng.sample(questions[image], min(style.rounds_per_image, len(questions[image])))
        asked += [(number, question) for question in mine]
    rng.shuffle(asked)
    if due is None:
        due = _due_rounds(len(images), style, rng)
    here: set[int] = set()
    rounds: list[Round] = []
    while asked and len(rounds) < style.rounds:
        new = _arriving(due, here, {number for number, _ in asked}, len(rounds))
        here.update(new)
        number, question = asked.pop(_choose([one for one, _ in asked], here, new, rounds, rng))
        rounds.append(Round(new, _word(question, number, len(images), style, rng), question))
    return Conversation(tuple(images), tuple(rounds))


def _due_rounds(count: int, style: Style, rng: random.Random) -> dict[int, int]:
    """The round in which each image is due: all in the first, or the last one or two later."""
    due = dict.fromkeys(range(1, count + 1), 0)
    if count > 1 and rng.random() < style.late:
        due[count] = rng.randint(1, 2)
        if count > 2 and rng.random() < 0.5:
            due[count - 1] = rng.randint(1, due[count])
    return due


def _arriving(due: Mapping[int, int], here: set[int], asked: set[int], now: int) -> tuple[int, ...]:
    """Images that are due; the next one early where nothing is left to ask about those here."""
    new = tuple(number for number, when in due.items() if when <= now and number not in here)
    if asked.isdisjoint(here.union(new)):
        return (*new, min(number for number in due if number not in here.union(new)))
    return new


def _choose(
    asked: Sequence[int],
    here: set[int],
    new: Sequence[int],
    rounds: Sequence[Round],
    rng: random.Random,
) -> int:
    """Index of the next question; about an image that has just come every other time."""
    there = [index for index, number in enumerate(asked) if number in here]
    fresh = [index for index in there if asked[index] in new]
    return fresh[0] if rounds and fresh and rng.random() < 0.5 else there[0]


def _word(question: Question, number: int, count: int, style: Style, rng: random.Random) -> str:
    if count == 1 and rng.random() >= style.name_single:
        return question.text
    return rng.choice(style.references).format(n=number, q=question.text)
