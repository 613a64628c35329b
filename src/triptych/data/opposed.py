"""Preferences out of questions that have one right answer: it is preferred to a wrong one."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from triptych.data.readers.base import Reader
from triptych.data.record import Record
from triptych.errors import DataError


@dataclass(frozen=True)
class Listed:
    """Records held in memory, as a reader."""

    records: Sequence[Record]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> Record:
        return self.records[index]

    def where(self, index: int) -> str:
        """Name of a record for messages."""
        return self.records[index].where


def oppose(reader: Reader, *, seed: int = 0, limit: int | None = None) -> Listed:
    """Prefer the last answer of each record to another record's answer of the same category.

    Records whose category has no other answer, and those that end with no answer, are left out.

    Args:
        reader: questions with answers.
        seed: of the choice among wrong answers.
        limit: only the first so many records.

    Raises:
        DataError: no record is left.
    """
    count = min(len(reader), limit or len(reader))
    records = [reader[index] for index in range(count)]
    answers: dict[str | None, set[str]] = {}
    for record in records:
        if record.messages[-1].learned:
            answers.setdefault(record.messages[-1].category, set()).add(record.messages[-1].text)
    rng, pairs = random.Random(f"{seed} opposed"), []
    for record in records:
        last = record.messages[-1]
        wrong = sorted(answers.get(last.category, set()) - {last.text})
        if last.learned and len(record.messages) > 1 and wrong:
            asked = replace(record, messages=record.messages[:-1])
            pairs.append(replace(asked, chosen=last.text, rejected=rng.choice(wrong)))
    if not pairs:
        raise DataError(
            f"none of {count} records ends with an answer whose category has another answer too"
        )
    return Listed(pairs)
