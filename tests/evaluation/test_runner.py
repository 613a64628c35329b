from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from triptych.data.schema import Record, parse_record
from triptych.errors import DataError
from triptych.evaluation import EvalSpec, evaluate_records, summarise
from triptych.evaluation.gain import gain_margin
from triptych.evaluation.questions import messages_of, prompt_before, questions_of
from triptych.evaluation.report import rows
from triptych.images.decode import content_hash
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec

SPEC = EvalSpec(max_new_tokens=6)


def turn(text: str, *images: str) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def answer(text: str, **more: object) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def records(folder: Path) -> list[Record]:
    objects = [
        [
            turn("is it red?", "0.png", "1.png"),
            answer("yes", category="colour"),
            turn("is image 3 blue?", "2.png"),
            answer("no", category="colour"),
        ],
        [turn("what shape?", "3.png"), answer("circle")],
        [turn("hello"), answer("hi", loss=False), turn("what shape?", "4.png"), answer("square")],
        [turn("no image here"), answer("right")],
        [turn("is it blue?", "3.png"), answer("yes", category="colour")],
    ]
    return [
        parse_record({"id": str(number), "messages": messages}, f"file:{number + 1}", folder)
        for number, messages in enumerate(objects)
    ]


def test_questions_are_the_answers_in_the_loss(folder: Path) -> None:
    asked = [q for index, record in enumerate(records(folder)) for q in questions_of(record, index)]
    assert [(q.record, q.turn, q.expected, q.category, q.images) for q in asked] == [
        (0, 1, "yes", "colour", 2),
        (0, 3, "no", "colour", 3),
        (1, 1, "circle", None, 1),
        (2, 3, "square", None, 1),
        (3, 1, "right", None, 0),
        (4, 1, "yes", "colour", 1),
    ]
    assert asked[3].text == "what shape?"


def test_answers_are_those_of_each_prompt_alone(engine: Engine, folder: Path) -> None:
    data = records(folder)
    evaluation = evaluate_records(engine, data, SPEC)
    sampling = SamplingSpec(max_new_tokens=6)
    for outcome in evaluation.outcomes:
        prompt = prompt_before(messages_of(data[outcome.question.record]), outcome.question.turn)
        assert outcome.answer == engine.respond([prompt], sampling)[0]


def with_answers(data: list[Record], texts: list[str]) -> list[Record]:
    """The same records with other reference answers where the loss is not false."""
    left = iter(texts)
    changed = []
    for record in data:
        plain = record.to_messages()
        for message in plain:
            if message["role"] == "assistant" and message.get("loss", True):
                message["content"] = next(left)
        changed.append(parse_record({"messages": plain}, record.where))
    return changed


def test_own_answers_as_reference_are_all_correct(engine: Engine, folder: Path) -> None:
    own = EvalSpec(max_new_tokens=6, history="own", blind=False)
    said = evaluate_records(engine, records(folder), own)
    texts = [one.answer.text for one in said.outcomes if one.answer is not None]
    again = evaluate_records(engine, with_answers(records(folder), texts), SPEC)
    assert [one.answer.text for one in again.outcomes if one.answer] == texts
    assert summarise(again)["accuracy"] == 1.0
    assert summarise(said)["accuracy"] < 1.0


def test_own_history_differs_from_reference_history(engine: Engine, folder: Path) -> None:
    own = evaluate_records(engine, records(folder), EvalSpec(max_new_tokens=6, history="own"))
    reference = evaluate_records(engine, records(folder), SPEC)
    assert own.outcomes[0].answer == reference.outcomes[0].answer
    assert own.outcomes[1].answer != reference.outcomes[1].answer


def test_fast_scoring_agrees_with_greedy_answers(engine: Engine, folder: Path) -> None:
    """References are taken from greedy decoding for half of the questions, cut for the others."""
    data = records(folder)
    greedy = evaluate_records(engine, data, EvalSpec(max_new_tokens=80, blind=False))
    finished = [one.answer for one in greedy.outcomes if one.answer is not None]
    assert any(one.finish_reason == "stop" for one in finished)
    texts = [
        one.text if place % 2 == 0 else one.text[:-1] + "z" for place, one in enumerate(finished)
    ]
    data = with_answers(data, texts)
    fast = evaluate_records(engine, data, EvalSpec(fast=True))
    slow = evaluate_records(engine, data, EvalSpec(max_new_tokens=80))
    tokenizer = engine.processor.tokenizer
    for one, other in zip(fast.outcomes, slow.outcomes, strict=True):
        expected = tokenizer(one.question.expected)["input_ids"]
        assert other.answer is not None
        exact = other.answer.finish_reason == "stop" and list(other.answer.tokens) == expected
        assert one.correct == exact
    assert one.answer is None


def test_the_blind_pass_shows_other_images(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = records(folder)
    seen: list[list[str]] = []
    complete = Engine.complete

    def spy(self: Engine, requests: Any, *rest: Any, **options: Any) -> Any:
        seen.append([picture.key for one in requests for picture in one.pictures])
        return complete(self, requests, *rest, **options)

    monkeypatch.setattr(Engine, "complete", spy)
    evaluation = evaluate_records(engine, data, SPEC)
    asked = [one.question for one in evaluation.outcomes]
    own = [
        content_hash(image.location) for q in asked for image in data[q.record].images[: q.images]
    ]
    assert seen[0] == own
    assert len(seen[1]) == len(own)
    place = 0
    for q in asked:
        mine = {content_hash(image.location) for image in data[q.record].images}
        assert mine.isdisjoint(seen[1][place : place + q.images])
        place += q.images


def test_a_blind_score_counts_against_the_own_reference(engine: Engine, folder: Path) -> None:
    evaluation = evaluate_records(engine, records(folder), SPEC)
    text_only = evaluation.outcomes[4]
    assert text_only.question.images == 0
    assert text_only.blind_answer == text_only.answer
    assert any(one.blind_answer != one.answer for one in evaluation.outcomes)


def test_the_summary_groups_and_counts(engine: Engine, folder: Path) -> None:
    evaluation = evaluate_records(engine, records(folder), SPEC)
    summary = summarise(evaluation)
    assert summary["questions"] == 6
    assert summary["records"] == 5
    assert {name: one["questions"] for name, one in summary["by_category"].items()} == {"colour": 3}
    counts = {name: one["questions"] for name, one in summary["by_images"].items()}
    assert counts == {"0": 1, "1": 3, "2": 1, "3": 1}
    assert summary["options"]["seed"] == 0
    assert set(summary["versions"]) == {"triptych", "torch", "transformers", "python"}
    written = list(rows(evaluation))
    assert [row["id"] for row in written] == ["0", "0", "1", "2", "3", "4"]
    assert all({"answer", "blind_answer", "prompt_tokens", "where"} <= set(row) for row in written)


def test_questions_about_the_same_images_are_one_cluster(engine: Engine, folder: Path) -> None:
    evaluation = evaluate_records(engine, records(folder), SPEC)
    seeing, blind = [1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 0]
    chosen = [
        replace(one, correct=bool(s), blind_correct=bool(b))
        for one, s, b in zip(evaluation.outcomes, seeing, blind, strict=True)
    ]
    differences = [s - b for s, b in zip(seeing, blind, strict=True)]
    clusters = [0, 0, "3.png", "4.png", "none", "3.png"]
    expected = gain_margin(zip(clusters, differences, strict=True))
    assert summarise(replace(evaluation, outcomes=chosen))["gain_margin"] == pytest.approx(expected)


def test_documents_are_no_questions(engine: Engine, folder: Path) -> None:
    parts = [{"type": "text", "text": "a page"}, {"type": "image", "image": "0.png"}]
    document = parse_record({"messages": [{"role": "document", "content": parts}]}, "d:1", folder)
    data = [document, *records(folder)]
    for fast in (True, False):
        spec = EvalSpec(max_new_tokens=6, fast=fast)
        plain = evaluate_records(engine, records(folder), spec)
        with_document = evaluate_records(engine, data, spec)
        assert [one.correct for one in with_document.outcomes] == [
            one.correct for one in plain.outcomes
        ]
        assert with_document.outcomes[0].question.record == 1


def test_limit_takes_the_first_records(engine: Engine, folder: Path) -> None:
    evaluation = evaluate_records(engine, records(folder), EvalSpec(limit=2, max_new_tokens=2))
    assert [one.question.record for one in evaluation.outcomes] == [0, 0, 1]


def test_what_cannot_be_judged_is_said(engine: Engine, folder: Path) -> None:
    with pytest.raises(DataError, match="no question"):
        evaluate_records(engine, [])
    with pytest.raises(DataError, match="reference answers"):
        evaluate_records(engine, records(folder), EvalSpec(fast=True, history="own"))
    painted = {"role": "assistant", "content": [{"type": "image", "image": "0.png"}]}
    record = parse_record({"messages": [turn("draw"), painted]}, "file:9", folder)
    with pytest.raises(DataError, match=r"file:9: messages\[1\] is an answer with an image"):
        evaluate_records(engine, [record])
