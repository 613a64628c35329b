"""The image cache as a user of the command line meets it."""

import io
import json
from pathlib import Path

import pytest
from tests.inference.reuse import engine_of
from tests.inference.tiny import paint, save_model

from triptych.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(engine_of(), tmp_path_factory.mktemp("mmca") / "model")


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(engine_of(attention="causal"), tmp_path_factory.mktemp("causal") / "model")


def test_chat_says_what_it_ran_and_what_it_knew(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = paint(tmp_path, "a.png", 1)
    lines = [f"/image {path}", "what color?", "/stats", "/clear", f"/image {path}", "no", "/stats"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", str(model), "--max-new-tokens", "3"]) == 0
    printed = capsys.readouterr().out
    assert "0 visual tokens reused" not in printed
    assert printed.count("4 visual tokens reused") == 2
    assert "image cache: state on, images 1" in printed
    assert "hits 0, misses 1" in printed
    assert "hits 1, misses 1" in printed


def test_one_question_as_json(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(paint(tmp_path, "a.png", 1))
    flags = ["--image", path, "--image", path, "--prompt", "no", "--max-new-tokens", "3", "--json"]
    answers = []
    for more in ([], ["--image-cache-mb", "1"], ["--image-cache-mb", "0"]):
        assert main(["chat", str(model), *flags, *more]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    default, small, off = answers
    assert default["answer"] == small["answer"] == off["answer"]
    assert default["prefilled_tokens"] == default["prompt_tokens"] - 4
    assert default["reused_tokens"] == 8
    assert default["image_cache"]["limit_megabytes"] > 1000
    assert small["image_cache"]["limit_megabytes"] == 1
    assert off["image_cache"] == {"state": "off", "reason": "switched off"}
    assert off["prefilled_tokens"] == off["prompt_tokens"]


def test_a_cache_that_the_model_cannot_have_is_refused(
    causal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["chat", str(causal), "--prompt", "no", "--max-new-tokens", "2", "--json"]
    assert main([*asked, "--image-cache-mb", "10"]) == 2
    assert "under attention 'causal', because" in capsys.readouterr().err
    assert main(asked) == 0
    state = json.loads(capsys.readouterr().out)["image_cache"]
    assert state["state"] == "off"
    assert "under attention 'causal', because" in state["reason"]
    for verb in (["eval"], ["replay"]):
        records = causal.parent / "records.jsonl"
        message = [{"role": "user", "content": "no"}, {"role": "assistant", "content": "yes"}]
        records.write_text(json.dumps({"messages": message}) + "\n")
        flags = ["--data", str(records), "--image-cache-mb", "10"]
        assert main([*verb, str(causal), *flags]) == 2
        assert "under attention 'causal', because" in capsys.readouterr().err
