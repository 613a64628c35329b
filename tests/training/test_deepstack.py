"""Training with DeepStack: the towers' own learning rate, cached features, training as serving."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.checks import close
from tests.model.tiny import picture, turn
from tests.training.tiny import data_spec, entries, model_spec, one_batch, recipe, stage

from triptych.inference.engine import Engine
from triptych.model.build import initialise, load_pretrained
from triptych.model.spec import ModelSpec
from triptych.training.parts import begin_stage, parameter_groups
from triptych.training.run import train, training_texts

DEEP: dict[str, Any] = {"kind": "deepstack", "start": 0, "count": 2}
CHANNELS: dict[str, Any] = {"kind": "channels", "count": 2}
RATE = 1e-4


def deep_spec(fusion: dict[str, Any]) -> ModelSpec:
    plain = model_spec().model_dump(mode="json")
    return ModelSpec.model_validate({**plain, "fusion": fusion})


def test_the_learning_rate_of_the_towers_is_applied(tmp_path: Path) -> None:
    """The release parses one and never gives it to its optimizer."""
    data = data_spec(tmp_path)
    model, processor = initialise(deep_spec(DEEP), texts=training_texts(data))
    chosen = stage(train={"towers": RATE, "connector": 1e-2, "language": "full"})
    parts = begin_stage(model, chosen)
    optimizer = torch.optim.AdamW(parameter_groups(parts, weight_decay=0.0), eps=1e-20)
    towers = {id(p) for p in model.towers.parameters()}
    rates = {
        group["lr"]: {id(p) in towers for p in group["params"]} for group in optimizer.param_groups
    }
    assert rates[RATE] == {True}
    assert not any(True in found for rate, found in rates.items() if rate != RATE)
    before = [p.detach().clone() for p in model.towers.parameters()]
    model(**one_batch(processor, data)).loss.backward()
    optimizer.step()
    moved = [
        float((p.detach() - old).abs().max())
        for p, old in zip(model.towers.parameters(), before, strict=True)
    ]
    # The first step of Adam is as long as its rate, where the gradient is not zero.
    assert max(moved) == pytest.approx(RATE, rel=0.02)
    assert min(moved) > 0


@pytest.mark.parametrize("fusion", [DEEP, CHANNELS], ids=["deepstack", "channels"])
def test_cached_features_hold_the_finer_tiles_too(fusion: dict[str, Any], tmp_path: Path) -> None:
    losses = []
    for cached in (False, True):
        made = recipe(
            tmp_path / str(cached),
            (stage(steps=3),),
            data={"cache_features": cached},
            model=deep_spec(fusion),
        )
        train(made.model, made.data, made.stages, made.parallel, made.run)
        losses.append([entry["loss"] for entry in entries(made.run.folder)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_served_is_what_was_trained(packed: bool, tmp_path: Path) -> None:
    made = recipe(
        tmp_path,
        (stage(steps=2),),
        model=deep_spec(DEEP),
        run={"gradient_checkpointing": True},
    )
    folder = train(made.model, made.data, made.stages, made.parallel, made.run)
    model, processor = load_pretrained(folder)
    asked = [[turn("Colour?", picture(0, (40, 20)), picture(1))], [turn("Colour?", picture(2))]]
    answered = [[*one, {"role": "assistant", "content": "red"}] for one in asked]
    images = [[part["image"] for part in one[0]["content"][:-1]] for one in asked]
    prompts = [
        processor.encode(one, [image.size for image in own])
        for one, own in zip(answered, images, strict=True)
    ]
    tiles = [[processor.tiles(image) for image in own] for own in images]
    batch = processor.collate(prompts, tiles, packed=packed)
    with torch.no_grad():
        trained = model(**batch, use_cache=False).logits
    requests = Engine(model, processor).requests(asked)
    starts = [0, len(prompts[0])] if packed else [0, 0]
    for row, request in enumerate(requests):
        engine = Engine(model, processor)
        inputs = engine.vision.inputs([request.pictures])
        with torch.no_grad():
            ids = torch.tensor([request.prompt.input_ids])
            served = model(input_ids=ids, **inputs).logits[0, -1]
        at = starts[row] + request.length - 1
        close(trained[0 if packed else row, at], served)
