"""Judge a model on records: its answers, their scores, and the blind baseline beside them."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.evaluation.blind import swap_images
from triptych.evaluation.metrics import anls, exact_match
from triptych.evaluation.prompts import answer_spans, cut_before
from triptych.evaluation.questions import Question, messages_of, prompt_before, questions_of
from triptych.evaluation.scored import follows_references
from triptych.evaluation.spec import EvalSpec
from triptych.images.decode import ImageInput
from triptych.inference.engine import Engine
from triptych.inference.requests import Answer, Message, Request
from triptych.inference.sampling import SamplingSpec

Progress = Callable[[str, int, int], None]
"""Called with the name of the pass ("seeing" or "blind"), what a batch had, and the total."""


@dataclass(frozen=True)
class Outcome:
    """What a model made of a question.

    Attributes:
        question: the question.
        correct: whether the answer matches.
        answer: the answer; None when only scored (``EvalSpec.fast``).
        blind_correct, blind_answer: the same with swapped images; None without a baseline.
    """

    question: Question
    correct: bool
    answer: Answer | None
    blind_correct: bool | None = None
    blind_answer: Answer | None = None

    @property
    def anls(self) -> float | None:
        """Likeness of the answer to the reference, for ANLS."""
        return None if self.answer is None else anls(self.answer.text, self.question.expected)

    @property
    def blind_anls(self) -> float | None:
        """The same of the answer with swapped images."""
        blind = self.blind_answer
        return None if blind is None else anls(blind.text, self.question.expected)


@dataclass(frozen=True)
class Evaluation:
    """All outcomes, in the order of the records, and the time they took in seconds."""

    spec: EvalSpec
    records: Sequence[Record]
    outcomes: Sequence[Outcome]
    seconds: float


def evaluate_records(
    engine: Engine,
    records: Sequence[Record],
    spec: EvalSpec | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge ``engine`` on every answer of ``records`` that is in the loss.

    Raises:
        DataError: there is nothing to judge, or a record cannot be judged.
        ContextError: a prompt exceeds the model's context.
        ImageError: an image is missing or cannot be read.
    """
    spec = spec or EvalSpec()
    _check(spec)
    start = time.perf_counter()
    chosen = list(records[: spec.limit])
    questions = [q for index, one in enumerate(chosen) for q in questions_of(one, index)]
    if not questions:
        raise DataError("there is no question: no record has an answer whose 'loss' is not false")
    total, names = len(questions), [record.where for record in chosen]
    own = [messages_of(record) for record in chosen]
    seeing = _Pass(engine, spec, questions, own, names)
    results = seeing.run(_named(progress, "seeing", total))
    blind: list[tuple[bool, Answer | None]] | None = None
    if spec.blind:
        swapped = _swapped(engine, chosen, spec.seed)
        blind = _Pass(engine, spec, questions, swapped, names).run(_named(progress, "blind", total))
    outcomes = [
        Outcome(question, *result, *(blind[place] if blind else (None, None)))
        for place, (question, result) in enumerate(zip(questions, results, strict=True))
    ]
    return Evaluation(spec, chosen, outcomes, time.perf_counter() - start)


class _Pass:
    """All questions asked once.

    Args:
        engine: the model.
        spec: how to ask.
        questions: in the order of the records.
        messages: of each record, with the images to be shown.
        names: of the records, for errors.
    """

    def __init__(
        self,
        engine: Engine,
        spec: EvalSpec,
        questions: Sequence[Question],
        messages: Sequence[Sequence[Message]],
        names: Sequence[str],
    ) -> None:
        self.engine = engine
        self.spec = spec
        self.questions = questions
        self.messages = messages
        self.names = names

    def run(self, progress: Callable[[int], None]) -> list[tuple[bool, Answer | None]]:
        """Correctness and answer of each question."""
        if self.spec.fast:
            whole, answers = self._tokenise()
            scores = follows_references(self.engine, whole, answers, progress)
            return [(correct, None) for row in scores for correct in row]
        said = self._own(progress) if self.spec.history == "own" else self._all(progress)
        return [
            (exact_match(answer.text, question.expected), answer)
            for question, answer in zip(self.questions, said, strict=True)
        ]

    def _tokenise(self) -> tuple[list[Request], list[list[tuple[int, int]]]]:
        """Records that have questions, whole, and the places of their answers."""
        counts = Counter(question.record for question in self.questions)
        whole = self.engine.requests(
            [self.messages[index] for index in counts], add_generation_prompt=False
        )
        answers = [
            answer_spans(request, self.names[index], counts[index])
            for request, index in zip(whole, counts, strict=True)
        ]
        return whole, answers

    def _all(self, progress: Callable[[int], None]) -> list[Answer]:
        """All questions at once; the prompts are beginnings of the tokenised records."""
        prompts = [
            cut_before(request, start)
            for request, spans in zip(*self._tokenise(), strict=True)
            for start, _ in spans
        ]
        return self._complete(prompts, progress)

    def _own(self, progress: Callable[[int], None]) -> list[Answer]:
        """Ask the first question of every record, then the second with the first answer, ..."""
        given: list[dict[int, str]] = [{} for _ in self.messages]
        answers: dict[int, Answer] = {}
        asked: Counter[int] = Counter()
        waves: dict[int, list[int]] = {}
        for place, question in enumerate(self.questions):
            waves.setdefault(asked[question.record], []).append(place)
            asked[question.record] += 1
        for number in sorted(waves):
            wave = [self.questions[place] for place in waves[number]]
            prompts = [
                prompt_before(self.messages[q.record], q.turn, given[q.record]) for q in wave
            ]
            said = self._complete(self.engine.requests(prompts), progress)
            for place, one in zip(waves[number], said, strict=True):
                answers[place] = one
                given[self.questions[place].record][self.questions[place].turn] = one.text
        return [answers[place] for place in range(len(self.questions))]

    def _complete(
        self, requests: Sequence[Request], progress: Callable[[int], None]
    ) -> list[Answer]:
        sampling = SamplingSpec(max_new_tokens=self.spec.max_new_tokens)
        return self.engine.complete(requests, sampling, share_prefixes=True, progress=progress)


def _check(spec: EvalSpec) -> None:
    if spec.fast and spec.history == "own":
        raise DataError("fast scoring follows the reference answers; use it with their history")


def _named(progress: Progress | None, name: str, total: int) -> Callable[[int], None]:
    return lambda count: None if progress is None else progress(name, count, total)


def _swapped(engine: Engine, records: Sequence[Record], seed: int) -> list[list[Message]]:
    """Messages of each record with the images of others in their places."""
    sources: list[list[ImageInput]] = [[one.location for one in r.images] for r in records]
    flat = engine.vision.look_all([source for row in sources for source in row])
    known: dict[str, ImageInput] = {}
    keys: list[list[str]] = []
    looked = iter(flat)
    for row in sources:
        pictures = [next(looked) for _ in row]
        keys.append([picture.key for picture in pictures])
        known |= {picture.key: picture.source for picture in pictures}
    return [
        messages_of(record, [known[key] for key in given])
        for record, given in zip(records, swap_images(keys, seed), strict=True)
    ]
