"""Sample predictions on held-out data: what the model really answers while it trains."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from triptych.data.schema import Record
from triptych.inference.engine import Engine as InferenceEngine
from triptych.inference.sampling import SamplingSpec

MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Question:
    """A held-out conversation up to its last answer.

    Attributes:
        set: name of the held-out set.
        where: the record it was taken from.
        messages: the conversation without its last answer.
        expected: that answer.
    """

    set: str
    where: str
    messages: tuple[dict[str, Any], ...]
    expected: str

    @property
    def text(self) -> str:
        """Text of the last round's question."""
        return _text(self.messages[-1])


def questions_of(name: str, records: Iterable[Record]) -> list[Question]:
    """Questions from the records of a held-out set that end with an answer."""
    return [question for record in records for question in _question(name, record)]


def predict(
    inference: InferenceEngine, questions: Sequence[Question], step: int, stage: str
) -> list[dict[str, object]]:
    """Answer ``questions`` greedily; one entry for samples.jsonl each.

    Questions that leave no room for an answer in the model's context are left out.
    """
    room = None if inference.context is None else inference.context - MAX_NEW_TOKENS
    requests = inference.requests([question.messages for question in questions])
    fitting = [i for i, r in enumerate(requests) if room is None or r.length <= room]
    answers = inference.complete(
        [requests[i] for i in fitting], SamplingSpec(max_new_tokens=MAX_NEW_TOKENS)
    )
    entries = []
    for index, answer in zip(fitting, answers, strict=True):
        question = asdict(questions[index])
        question["question"] = questions[index].text
        del question["messages"]
        entries.append({"step": step, "stage": stage, **question, "answer": answer.text})
    return entries


def _question(name: str, record: Record) -> list[Question]:
    messages = record.to_messages()
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        return []
    return [Question(name, record.where, tuple(messages[:-1]), _text(messages[-1]))]


def _text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text").strip()
