"""Exports of what a run trained, on top of pretrained weights that lie elsewhere."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.export.test_run import assert_equal, logits
from tests.export.tiny import adapted_run, trained
from tests.training.tiny import model_spec, recipe, stage
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.cli.main import main
from triptych.errors import CheckpointError, RecipeError
from triptych.export import ExportSpec, export_model
from triptych.language import TrainedTokenizer, TransformersLanguage, train_tokenizer
from triptych.language.write import write_model
from triptych.model.build import initialise, load_pretrained
from triptych.model.spec import ModelSpec

PARTS = ExportSpec(format="parts")


def pretrained(folder: Path, seed: int = 0) -> ModelSpec:
    """The tiny model, whose language model has weights in ``folder``."""
    tokenizer = train_tokenizer(["Colour? red green blue grey yes"], TrainedTokenizer())
    plain = model_spec().language.read_config()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**plain | {"vocab_size": len(tokenizer)}))
    write_model(model, folder)
    tokenizer.save_pretrained(folder)
    return model_spec().model_copy(update={"language": TransformersLanguage(source=str(folder))})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages: connector, then LoRA on the language model and DoRA on the tower."""
    folder = tmp_path_factory.mktemp("run")
    return trained(folder, adapted_run(folder, pretrained(folder / "language")))


def test_parts_on_pretrained_weights_are_the_model(run: Path, tmp_path: Path) -> None:
    report = export_model(run, tmp_path / "out", PARTS)
    assert report.form == "parts"
    assert report.adapted > 14
    assert_equal(
        logits(*load_pretrained(tmp_path / "out")), logits(*load_pretrained(run / "model"))
    )
    names = load_file(tmp_path / "out" / "trained.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"connector", "new_tokens"}
    assert not list((tmp_path / "out").glob("model*.safetensors"))


def test_parts_of_a_checkpoint_are_the_model_of_that_step(run: Path, tmp_path: Path) -> None:
    found = {}
    for step in ("1", "4", "5"):
        export_model(run, tmp_path / step, ExportSpec(format="parts", checkpoint=step))
        found[step] = logits(*load_pretrained(tmp_path / step))
    assert not (tmp_path / "1" / "adapter").exists()
    assert_equal(found["5"], logits(*load_pretrained(run / "model")))
    assert not torch.allclose(found["1"], found["4"], atol=1e-2)


def test_parts_can_be_rounded(run: Path, tmp_path: Path) -> None:
    """Only what is written is rounded; the pretrained weights stay as they are."""
    report = export_model(run, tmp_path / "out", ExportSpec(format="parts", dtype="bfloat16"))
    assert report.dtype == "bfloat16"
    for file in ("trained.safetensors", "adapter/adapter_model.safetensors"):
        weights = load_file(tmp_path / "out" / file)
        kinds = {value.dtype for name, value in weights.items() if "magnitude" not in name}
        assert kinds == {torch.bfloat16}
    found = logits(*load_pretrained(tmp_path / "out"))
    expected = logits(*load_pretrained(run / "model"))
    kept = torch.isfinite(expected)
    assert found.dtype == torch.float32
    assert not torch.equal(found[kept], expected[kept])
    assert (found - expected)[kept].abs().max() < 0.05 * expected[kept].abs().max()


def test_other_pretrained_weights_are_refused(tmp_path: Path) -> None:
    language = tmp_path / "language"
    made = trained(tmp_path, adapted_run(tmp_path, pretrained(language)))
    export_model(made, tmp_path / "out", PARTS)
    pretrained(language, seed=1)
    with pytest.raises(CheckpointError, match="other pretrained weights"):
        load_pretrained(tmp_path / "out")


def test_a_language_model_from_scratch_has_no_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trained(tmp_path, recipe(tmp_path, (stage(steps=1),)))
    with pytest.raises(CheckpointError, match="--format parts needs a run folder"):
        export_model(made / "model", tmp_path / "out", PARTS)
    arguments = ["export", str(made), str(tmp_path / "out"), "--format", "parts"]
    assert main(arguments) == 2
    assert "trained from scratch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_began_with_another_one_is_refused(run: Path, tmp_path: Path) -> None:
    spec = pretrained(tmp_path / "language")
    made = trained(tmp_path, recipe(tmp_path, (stage(steps=1),), model=spec, run={"start": run}))
    with pytest.raises(RecipeError, match="began with the model of another one"):
        export_model(made, tmp_path / "out", PARTS)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("{", "cannot be read"),
        ('{"model": {}}', "has model; expected model, seed and base"),
        ("[]", "has no object; expected"),
    ],
)
def test_a_damaged_record_is_named(run: Path, tmp_path: Path, damage: str, expected: str) -> None:
    export_model(run, tmp_path / "out", PARTS)
    (tmp_path / "out" / "parts.json").write_text(damage)
    with pytest.raises(CheckpointError, match=rf"parts\.json: .*{expected}"):
        load_pretrained(tmp_path / "out")


def test_a_weight_of_another_shape_is_named(run: Path, tmp_path: Path) -> None:
    export_model(run, tmp_path / "out", PARTS)
    file = tmp_path / "out" / "trained.safetensors"
    weights = load_file(file)
    save_file(weights | {"connector.0.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(CheckpointError, match=r"'connector\.0\.weight' does not fit"):
        load_pretrained(tmp_path / "out")


def test_what_is_random_and_frozen_comes_from_the_seed(tmp_path: Path) -> None:
    """New tokens that did not train are drawn anew, from the seed of the run."""
    spec = pretrained(tmp_path / "language")
    alone = stage(steps=1, train={"connector": True, "new_tokens": False})
    made = trained(tmp_path, recipe(tmp_path, (alone,), model=spec, run={"seed": 7}))
    export_model(made, tmp_path / "out", PARTS)
    rows = load_pretrained(tmp_path / "out")[0].new_tokens.weight
    assert torch.equal(rows, initialise(spec, seed=7)[0].new_tokens.weight)
    assert not torch.equal(rows, initialise(spec, seed=0)[0].new_tokens.weight)
