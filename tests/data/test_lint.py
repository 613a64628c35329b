import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.data.tiny import answer, many, paint, user, write_jsonl

from triptych.data.lint import HINTS, Problem, lint
from triptych.data.readers.llava import UNTAGGED
from triptych.model.processing import TriptychProcessor


def check(tmp_path: Path, *messages: dict[str, Any], **options: Any) -> list[Problem]:
    paint(tmp_path, "good.png", 40)
    return lint(write_jsonl(tmp_path / "one.jsonl", [list(messages)]), **options).problems


def test_good_records_have_no_problem(tmp_path: Path, processor: TriptychProcessor) -> None:
    report = lint(many(tmp_path, 20), processor=processor, max_tokens=200)
    assert report.problems == []
    assert (report.records, report.images, report.text_only, report.rounds) == (20, 30, 5, 20)
    assert report.tokens is not None
    assert report.longest is not None
    assert report.longest <= 200 < report.tokens


@pytest.mark.parametrize(
    ("messages", "level", "kind", "expected"),
    [
        ([user("x", "gone.png"), answer("no")], "error", "image", "image 1: .*gone.png"),
        ([user("x", "good.png", "cut.png"), answer("no")], "error", "image", "image 2: .*cut.png"),
        ([user("x", "http://a.b/c.png"), answer("no")], "error", "image", "not fetched"),
        ([answer("no")], "error", "roles", "begins with a user"),
        ([user("x"), user("y"), answer("no")], "error", "roles", "repeats the role user"),
        ([user("x"), answer("no", loss=False)], "error", "supervised", "nothing is supervised"),
        ([user("<image>\nx"), answer("no")], "error", "tokens", "'<image>' in its text"),
        ([user("x"), answer("no"), user("y")], "warning", "unanswered", "no answer"),
        ([user("x"), answer(" "), user("y"), answer("no")], "warning", "empty", r"messages\[1\]"),
    ],
)
def test_a_defect_is_found_and_has_a_hint(
    tmp_path: Path,
    processor: TriptychProcessor,
    messages: list[dict[str, Any]],
    level: str,
    kind: str,
    expected: str,
) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    for options in ({}, {"processor": processor}):
        (problem,) = check(tmp_path, *messages, **options)
        assert (problem.level, problem.kind) == (level, kind)
        assert re.search(expected, problem.message)
        assert problem.where == f"{tmp_path / 'one.jsonl'}:1"
        assert problem.hint == HINTS[kind]


def test_a_record_over_the_context_is_an_error(
    tmp_path: Path, processor: TriptychProcessor
) -> None:
    messages = [user("is there a circle? " * 20, "good.png"), answer("no")]
    (problem,) = check(tmp_path, *messages, processor=processor, max_tokens=40)
    assert problem.kind == "long"
    assert check(tmp_path, *messages, processor=processor, max_tokens=400) == []


def test_a_bad_line_does_not_end_the_check(tmp_path: Path) -> None:
    path = many(tmp_path, 3)
    path.write_text(path.read_text() + "{oops\n" + path.read_text())
    report = lint(path)
    assert [problem.where for problem in report.problems] == [f"{path}:4"]
    assert "oops" not in report.problems[0].message
    assert (report.records, report.errors, report.warnings) == (7, 1, 0)


def test_llava_assumptions_are_warnings(tmp_path: Path) -> None:
    paint(tmp_path, "good.png", 40)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A circle."}]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps([{"image": "good.png", "conversations": turns}]))
    report = lint(path, "llava")
    assert [(p.level, p.message) for p in report.problems] == [("warning", UNTAGGED)]
    assert "read the file with reader 'llava'" in lint(path).problems[0].message


def test_the_report_is_json(tmp_path: Path) -> None:
    paint(tmp_path, "good.png", 1)
    report = lint(write_jsonl(tmp_path / "a.jsonl", [[user("x", "gone.png"), answer("no")]] * 2))
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["errors"] == 2
    assert plain["kinds"] == {"image": 2}
    assert plain["problems"][0]["hint"]
