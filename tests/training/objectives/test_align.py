"""Alignment of visual tokens with the words of the answer."""

from pathlib import Path

import pytest
import torch
from tests.oracles import align as oracle
from tests.training.test_loop import make_trainer
from tests.training.tiny import build, model_spec, recipe, stage

from triptych.cli.main import main
from triptych.data.loader import Loader
from triptych.data.spec import BatchSpec
from triptych.errors import RecipeError
from triptych.fusion import CrossFusion
from triptych.language.head import IGNORE
from triptych.model.build import initialise
from triptych.recipe import save_recipe
from triptych.training.objectives.align import Align, align_loss
from triptych.training.objectives.base import Totals
from triptych.training.objectives.spec import AlignObjective
from triptych.training.objectives.table import check_objective
from triptych.training.stages import StageSpec

ALONE = {"connector": True, "new_tokens": False}


def align_stage(**fields: object) -> StageSpec:
    return stage("align", **{"objective": AlignObjective(), "train": ALONE, **fields})


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_loss_is_its_definition(weight: float) -> None:
    torch.manual_seed(3)
    images, texts, center = torch.randn(7, 5), torch.randn(7, 5), torch.randn(5)
    texts[4] = texts[1]  # two samples with the same answer
    found = align_loss(images, texts, center, temperature=0.3, distance_weight=weight)
    rows = images.tolist(), texts.tolist(), center.tolist()
    assert found.tolist() == pytest.approx(oracle.losses(*rows, 0.3, weight), rel=1e-4)


def test_images_that_are_their_texts_cost_nothing() -> None:
    texts = torch.eye(6)
    found = align_loss(texts, texts, torch.zeros(6), temperature=0.01, distance_weight=1.0)
    assert float(found.abs().max()) < 1e-5
    shuffled = align_loss(
        texts.roll(1, 0), texts, torch.zeros(6), temperature=0.01, distance_weight=1.0
    )
    assert float(shuffled.min()) > 50


def test_samples_of_one_image_count_and_words_without_the_end(tmp_path: Path) -> None:
    """Against a loop over the samples of a real batch that also has texts and pairs of images."""
    model, processor, data = build(tmp_path, batch=BatchSpec(tokens=4096, tiles=64))
    batch = next(Loader.open(processor, data, seed=0).steps())[0]
    table = model.get_input_embeddings().get_parameter("weight").detach()
    center, end = table.mean(0), processor.end_token_id
    made = Align(AlignObjective(), model.config.image_token_id, [end], center)
    embeddings = model(**batch, embed_only=True).inputs_embeds
    images, texts = [], []
    for row, count in enumerate(batch["images_per_sample"].tolist()):
        said = [one for one in batch["labels"][row].tolist() if one not in (IGNORE, end)]
        if count == 1 and said:
            places = batch["input_ids"][row] == model.config.image_token_id
            images.append(embeddings[row][places].mean(0).tolist())
            texts.append(table[said].mean(0).tolist())
    counts = set(batch["images_per_sample"].tolist())
    assert {0, 1, 2} <= counts
    assert made.items(batch) == len(images)
    found = made.loss(model, batch, Totals(len(images), 1))
    expected = oracle.losses(images, texts, center.tolist(), 0.07, 1.0)
    assert float(found.value.detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert float(found.sums[0]) == pytest.approx(sum(expected), rel=1e-4)


def test_it_brings_images_to_their_words_and_changes_nothing_else(tmp_path: Path) -> None:
    model, processor, data = build(tmp_path, batch=BatchSpec(tokens=4096, tiles=64))
    batches = next(Loader.open(processor, data, seed=0).steps())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(
        tmp_path / "run", model, processor, batches, align_stage(steps=60, learning_rate=2e-2)
    )
    first = Align(
        AlignObjective(), model.config.image_token_id, [processor.end_token_id],
        model.get_input_embeddings().get_parameter("weight").detach().mean(0),
    )  # fmt: skip
    totals = Totals(first.items(batches[0]), 1)
    start = float(first.loss(model, batches[0], totals).value.detach())
    trainer.train()
    assert float(first.loss(model, batches[0], totals).value.detach()) < 0.5 * start
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed
    assert {name.split(".")[0] for name in changed} == {"connector"}


def test_a_batch_without_a_single_image_has_a_gradient_of_nothing(tmp_path: Path) -> None:
    model, processor, data = build(tmp_path)
    made = Align(AlignObjective(), model.config.image_token_id, [], torch.zeros(32))
    for batch in next(Loader.open(processor, data, seed=0).steps()):
        batch["labels"] = torch.full_like(batch["labels"], IGNORE)
        assert made.items(batch) == 0
        found = made.loss(model.train(), batch, Totals(1, 1))
        found.value.backward()
        assert float(found.value.detach()) == 0.0
        gradients = [p.grad for p in model.connector.parameters()]
        assert all(one is not None and not one.any() for one in gradients)


def test_a_run_aligns_and_then_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = (align_stage(steps=2), stage("tune", steps=2))
    made = recipe(tmp_path, stages)
    save_recipe(made, tmp_path / "recipe.yaml")
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 0
    assert "align" in capsys.readouterr().out
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize("train", [{"language": "lora"}, {"new_tokens": True}])
def test_what_does_not_see_cannot_be_aligned(train: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="only what sees can train"):
        align_stage(train={**ALONE, **train})


def test_images_outside_the_sequence_cannot_be_aligned() -> None:
    spec = model_spec().model_copy(update={"fusion": CrossFusion()})
    model, _ = initialise(spec, texts=["red"])
    with pytest.raises(RecipeError, match="visual tokens in the sequence"):
        check_objective(model, align_stage(), packed=False)


def test_packed_rows_are_refused_before_anything_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = BatchSpec(tokens=256, tiles=8, packed=True)
    made = recipe(tmp_path, (stage(steps=1), align_stage(batch=packed)))
    save_recipe(made, tmp_path / "recipe.yaml")
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert "packed: false" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
