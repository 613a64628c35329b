"""Exports of runs: their checkpoints, adapters and precisions, loaded as their users do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.export.tiny import NEXT_TILING, adapted_run, llava_spec, trained
from tests.model.tiny import answer, picture, turn
from tests.training.tiny import model_spec
from transformers import AutoModelForImageTextToText, AutoProcessor

from triptych.cli.main import main
from triptych.errors import CheckpointError, RecipeError
from triptych.export import ExportSpec, export_model
from triptych.model.build import load_pretrained
from triptych.model.parts import ADAPTER
from triptych.recipe import load_recipe
from triptych.training.checkpoint import read_checkpoint
from triptych.training.restore import restore

MESSAGES = [
    turn("Colour?", picture(0, (70, 33))),
    answer("red"),
    turn("Colour?", picture(1, (31, 45))),
]
SETTINGS: dict[str, Any] = {
    "tokenize": True,
    "return_dict": True,
    "return_tensors": "pt",
    "add_generation_prompt": True,
}
Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Finished runs by name: ``llava`` can be one, ``own`` and ``bf16`` are of our own layout."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = llava_spec(tied=True) if name == "llava" else model_spec()
            precision = "bf16" if name == "bf16" else "fp32"
            made[name] = trained(folder, adapted_run(folder, model, precision=precision))
        return made[name]

    return get


@torch.no_grad()
def logits(model: Any, processor: Any) -> torch.Tensor:
    batch = processor.apply_chat_template(MESSAGES, **SETTINGS)
    found: torch.Tensor = model.eval()(**batch).logits
    return found


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    kept = torch.isfinite(expected)
    torch.testing.assert_close(found[kept], expected[kept], atol=1e-4, rtol=1e-4)


def test_a_finished_run_is_exported_merged(runs: Run, tmp_path: Path) -> None:
    run = runs("llava")
    report = export_model(run, tmp_path / "out", ExportSpec())
    assert (report.form, report.dtype, report.adapted) == ("llava", "float32", 0)
    expected = logits(*load_pretrained(run / "model"))
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert_equal(logits(theirs, AutoProcessor.from_pretrained(tmp_path / "out")), expected)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["check"]["prompts"] == 3
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["llava", "own", "bf16"])
def test_the_last_checkpoint_is_the_trained_model(runs: Run, tmp_path: Path, name: str) -> None:
    """Merged from a checkpoint, LoRA and DoRA give what the run itself saved at its end."""
    run = runs(name)
    form = "llava" if name == "llava" else "triptych"
    export_model(run, tmp_path / "out", ExportSpec(checkpoint="last", format=form))
    expected = load_file(run / "model" / "model.safetensors")
    if name != "llava":
        found = load_file(tmp_path / "out" / "model.safetensors")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-6)
    else:
        theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
        for ours, their in {
            "connector.0.weight": "model.multi_modal_projector.linear_1.weight",
            "towers.0.encoder.encoder.layers.0.mlp.fc1.weight": (
                "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
            ),
        }.items():
            torch.testing.assert_close(theirs.state_dict()[their], expected[ours])


def test_an_earlier_checkpoint_is_the_model_of_that_step(runs: Run, tmp_path: Path) -> None:
    run = runs("own")
    recipe = load_recipe(run / "recipe.yaml")
    found = {}
    for step in ("1", "4"):
        report = export_model(run, tmp_path / step, ExportSpec(checkpoint=step))
        assert f"step-0000000{step}" in report.source
        found[step] = logits(*load_pretrained(tmp_path / step))
        checkpoint = read_checkpoint(run / "checkpoints" / f"step-0000000{step}")
        in_stage, processor = restore(run, checkpoint, recipe.stages, recipe.run)
        assert_equal(found[step], logits(in_stage, processor))
    assert not torch.allclose(found["1"], found["4"], atol=1e-2)


@pytest.mark.parametrize("name", ["llava", "own", "bf16"])
def test_adapters_apart_load_with_peft(runs: Run, tmp_path: Path, name: str) -> None:
    """Base and adapter give the merged model; the base alone does not."""
    run, out = runs(name), tmp_path / "out"
    report = export_model(run, out, ExportSpec(adapter=True))
    assert report.adapted > 14
    if name == "llava":
        base = AutoModelForImageTextToText.from_pretrained(out)
        processor = AutoProcessor.from_pretrained(out)
    else:
        base, processor = load_pretrained(out)
    alone = logits(base, processor)
    both = logits(PeftModel.from_pretrained(base, str(out / ADAPTER)), processor)
    assert_equal(both, logits(*load_pretrained(run / "model")))
    assert (both - alone)[torch.isfinite(alone)].abs().max() > 1e-2
    config = json.loads((out / ADAPTER / "adapter_config.json").read_text())
    assert config["use_dora"] is True
    assert set(config["rank_pattern"].values()) | {config["r"]} == {3, 4}


def test_the_tiling_of_the_last_stage_goes_along(tmp_path: Path) -> None:
    made = adapted_run(tmp_path, llava_spec())
    first, last = made.stages
    stages = (first, last.model_copy(update={"tiling": NEXT_TILING, "max_tokens": 256}))
    run = trained(tmp_path, made.model_copy(update={"stages": stages}))
    expected = logits(*load_pretrained(run / "model"))
    for step, form in (("last", "llava_next"), ("2", "llava")):
        report = export_model(run, tmp_path / step, ExportSpec(checkpoint=step))
        assert report.form == form
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "last")
    assert_equal(logits(theirs, AutoProcessor.from_pretrained(tmp_path / "last")), expected)


def test_bfloat16_rounds_what_is_written_once(runs: Run, tmp_path: Path) -> None:
    run = runs("llava")
    report = export_model(run, tmp_path / "out", ExportSpec(dtype="bfloat16", shard="60KB"))
    assert report.dtype == "bfloat16"
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 1
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert theirs.dtype == torch.bfloat16
    expected = load_file(run / "model" / "model.safetensors")["connector.0.weight"]
    found = theirs.model.multi_modal_projector.linear_1.weight
    assert torch.equal(found, expected.to(torch.bfloat16))


REMOTE = """
import sys, torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

out, image, again, result = sys.argv[1:]
sys.modules["triptych"] = None  # as if it were not installed
try:
    AutoConfig.from_pretrained(out, trust_remote_code=True)
except ImportError as error:
    print(error)
del sys.modules["triptych"]
model = AutoModelForImageTextToText.from_pretrained(out, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(out, trust_remote_code=True)
parts = [{"type": "image", "path": image}, {"type": "text", "text": "Colour?"}]
batch = processor.apply_chat_template(
    [{"role": "user", "content": parts}], tokenize=True, add_generation_prompt=True
)
with torch.no_grad():
    torch.save(model(**batch).logits, result)
model.save_pretrained(again)
processor.save_pretrained(again)
model = AutoModelForImageTextToText.from_pretrained(again, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
"""


def test_remote_code_loads_in_a_process_that_knows_only_transformers(
    runs: Run, tmp_path: Path
) -> None:
    """It says what to install where triptych is not; what it loads can be saved and loaded."""
    run, shown = runs("own"), picture(0, (70, 33))
    report = export_model(run, tmp_path / "out", ExportSpec())
    assert report.form == "triptych"
    assert "'small'" in report.obstacles[0]
    shown.save(tmp_path / "a.png")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_MODULES_CACHE": str(tmp_path / "cache"),
    }
    places = [str(tmp_path / name) for name in ("out", "a.png", "again", "logits.pt")]
    command = [sys.executable, "-c", REMOTE, *places]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the Python package triptych" in done.stdout
    assert "not installed here; install it with pip" in done.stdout
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    model, processor = load_pretrained(run / "model")
    batch = processor.apply_chat_template([turn("Colour?", shown)], **SETTINGS)
    with torch.no_grad():
        assert_equal(found, model(**batch).logits)  # type: ignore[arg-type]


def test_a_mismatch_is_an_error_and_leaves_nothing(
    runs: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that is lost on the way is found by the comparison."""
    run = runs("llava")

    def forget(model: Any, made: Any) -> dict[str, torch.Tensor]:
        weights = _weights(model, made)
        name = "model.multi_modal_projector.linear_2.weight"
        return weights | {name: torch.zeros_like(weights[name])}

    from triptych.export.llava import _weights

    monkeypatch.setattr("triptych.export.llava._weights", forget)
    with pytest.raises(CheckpointError, match=r"differs from the original on prompt 2.*nothing"):
        export_model(run, tmp_path / "out", ExportSpec())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(runs: Run, tmp_path: Path) -> None:
    run, out = runs("own"), tmp_path / "out"
    with pytest.raises(RecipeError, match=r"no LLaVA: its tower is 'small'.*--format triptych"):
        export_model(run, out, ExportSpec(format="llava"))
    with pytest.raises(CheckpointError, match=r"no checkpoint '77'; found the steps 1, 2, 3, 4, 5"):
        export_model(run, out, ExportSpec(checkpoint="77"))
    with pytest.raises(RecipeError, match="trains no LoRA matrices"):
        export_model(run, out, ExportSpec(checkpoint="2", adapter=True))
    with pytest.raises(CheckpointError, match="--adapter needs a run folder"):
        export_model(run / "model", out, ExportSpec(adapter=True))
    with pytest.raises(CheckpointError, match="does not exist"):
        export_model(tmp_path / "nowhere", out, ExportSpec())
    assert not out.exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(CheckpointError, match="already there and not empty"):
        export_model(run, tmp_path / "taken", ExportSpec())


def test_the_command_line(runs: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(runs("own")), str(tmp_path / "out")
    assert main(["export", run, out, "--checkpoint", "best", "--adapter"]) == 0
    printed = capsys.readouterr().out
    assert "remote code, which needs triptych installed, float32, from" in printed
    assert "not a LLaVA of transformers: its tower is 'small'" in printed
    assert "checked: loaded again, 3 prompts: logits differ by at most" in printed
    assert main(["export", run, out]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["export", run, str(tmp_path / "other"), "--format", "gguf"]) == 2
    assert "'format' is 'gguf'" in capsys.readouterr().err
    assert main(["export", run, str(tmp_path / "other"), "--shard", "big"]) == 2
    assert "'shard' is 'big'" in capsys.readouterr().err
