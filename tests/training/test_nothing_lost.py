"""What other programs lose between stages and folders: connector, new tokens, LoRA, processor."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.training.tiny import model_spec, recipe, stage
from torch import Tensor

from triptych.errors import CheckpointError
from triptych.export import ExportSpec, export_model
from triptych.model.build import load_pretrained, load_processor
from triptych.model.spec import TemplateSpec
from triptych.recipe import save_recipe
from triptych.training.run import train

OTHERS = {"connector": False, "new_tokens": False}
LOW_RANK = {"mode": "lora", "rank": 2, "alpha": 32}
STAGES = (
    stage("align", steps=2, learning_rate=5e-2),
    stage("tune", steps=2, learning_rate=5e-2, train={**OTHERS, "language": LOW_RANK}),
    stage("look", steps=2, learning_rate=5e-2, train={**OTHERS, "towers": LOW_RANK}),
)
ALIGNED = ("connector.0.weight", "connector.2.bias", "new_tokens.weight")
TUNED = "language_model.model.layers.0.mlp.up_proj.weight"
SEEN = "towers.0.blocks.0.mlp.0.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stages that train other parts each; the last one neither connector nor language."""
    tagged = TemplateSpec(family="compact", numbered="before", tags=True)
    made = recipe(
        tmp_path_factory.mktemp("lost"),
        STAGES,
        model=model_spec().model_copy(update={"template": tagged}),
        run={"evaluate_samples": 1, "keep": 9},
    )
    save_recipe(made, made.run.folder / "recipe.yaml")
    train(made.model, made.data, made.stages, made.parallel, made.run)
    return made.run.folder


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def test_every_stage_is_in_the_model(run: Path) -> None:
    start, model = weights(run / "start"), weights(run / "model")
    aligned = load_file(checkpoint(run, 2) / "weights.safetensors")
    for name in ALIGNED:
        assert not torch.equal(start[name], aligned[name])
        assert torch.equal(model[name], aligned[name]), name
    tuned = load_file(checkpoint(run, 6) / "weights.safetensors")[TUNED]
    assert torch.equal(model[TUNED], tuned)
    assert not torch.equal(model[TUNED], start[TUNED])
    assert not torch.equal(model[SEEN], start[SEEN])


def test_every_checkpoint_holds_all_that_was_trained_before(run: Path) -> None:
    names = {
        step: set(load_file(checkpoint(run, step) / "weights.safetensors")) for step in (2, 4, 6)
    }
    assert all(set(ALIGNED) <= found for found in names.values())
    plain = {name for name in names[6] if ".lora_" not in name}
    assert TUNED in plain
    assert any(name.startswith("towers.") and ".lora_A." in name for name in names[6])


@pytest.mark.parametrize("adapter", [False, True])
def test_an_export_of_the_last_checkpoint_holds_every_stage(
    run: Path, tmp_path: Path, adapter: bool
) -> None:
    """Adapters apart or merged: what is not in the adapter is in the base."""
    out = tmp_path / "out"
    export_model(run, out, ExportSpec(checkpoint="last", adapter=adapter))
    found, expected = weights(out), weights(run / "model")
    differing = {n for n in expected if not torch.allclose(found[n], expected[n], atol=1e-6)}
    adapted = json.loads((out / "adapter" / "adapter_config.json").read_text()) if adapter else {}
    layers = {f"{name}.weight" for name in adapted.get("target_modules", ())}
    assert differing == layers
    assert SEEN in layers or not adapter


def test_every_folder_has_its_processor(run: Path, tmp_path: Path) -> None:
    export_model(run, tmp_path / "out", ExportSpec())
    template = load_processor(run / "start").chat_template
    for folder in (run / "model", tmp_path / "out"):
        assert load_processor(folder).chat_template == template
        assert (folder / "generation_config.json").is_file()


@pytest.mark.parametrize("lost", [ALIGNED[0], TUNED])
def test_a_checkpoint_that_lost_an_earlier_stage_is_refused(
    run: Path, tmp_path: Path, lost: str
) -> None:
    """Neither exported nor gone on from with the values of the start."""
    path = checkpoint(run, 6) / "weights.safetensors"
    whole = load_file(path)
    save_file({name: value for name, value in whole.items() if name != lost}, path)
    try:
        with pytest.raises(CheckpointError, match=f"'{lost}'.*was trained but is in none"):
            export_model(run, tmp_path / "out", ExportSpec(checkpoint="6"))
    finally:
        save_file(whole, path)
    assert not (tmp_path / "out").exists()


def test_a_model_without_its_connector_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(run, out, ExportSpec())
    kept = {n: v for n, v in weights(out).items() if not n.startswith("connector.")}
    save_file(kept, out / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights are missing, the first is 'connector\.0"):
        load_pretrained(out)
