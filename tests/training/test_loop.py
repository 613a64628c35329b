from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import build, stage
from torch import Tensor

from triptych.data.encode import Encoder
from triptych.data.loader import Loader
from triptych.data.readers import open_reader
from triptych.errors import TriptychError
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor
from triptych.training.display import Display
from triptych.training.engines.single import SingleEngine
from triptych.training.loop import StagePlan, Trainer, count
from triptych.training.reporter import Reporter
from triptych.training.stages import RunSpec, StageSpec

FULL = {"towers": True, "language": "full"}


class FixedLoader:
    """The same micro-batches in every step."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self.batches, self.step = batches, 0

    def steps(self) -> Iterator[Sequence[Mapping[str, Tensor]]]:
        while True:
            self.step += 1
            yield self.batches

    def once(self) -> Iterator[Mapping[str, Tensor]]:
        yield from self.batches

    def names(self) -> list[str]:
        return ["a.jsonl:1", "a.jsonl:7"]

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.step = state["step"]


def make_trainer(
    folder: Path,
    model: TriptychForConditionalGeneration,
    processor: TriptychProcessor,
    batches: Sequence[Mapping[str, Tensor]],
    *stages: StageSpec,
    **run: Any,
) -> Trainer:
    engine, spec = SingleEngine(), RunSpec(folder=folder, **run)
    plans = [StagePlan(one, FixedLoader(batches), one.steps or 1) for one in stages]
    reporter = Reporter(
        model, processor, engine, spec, folder, 0, {}, [], Display(main=False), log=None
    )
    return Trainer(model, engine, spec, plans, reporter, folder / "checkpoints")


def batches_of(
    processor: TriptychProcessor, path: Path, groups: Sequence[Sequence[int]], data: Any
) -> list[dict[str, Tensor]]:
    reader, encoder = open_reader(path, "jsonl", None), Encoder(processor, data)
    batches = []
    for group in groups:
        samples = [encoder.sample(reader[index]) for index in group]
        prompts = [sample.prompt for sample in samples if sample is not None]
        tiles = [encoder.tiles(reader[index]) for index in group]
        batches.append(processor.collate(prompts, tiles, labels=True))
    return batches


def train_on(
    folder: Path, groups: Sequence[Sequence[int]], spec: StageSpec, **run: Any
) -> dict[str, Tensor]:
    """Weights after training on the given records, each group one micro-batch of every step."""
    model, processor, data = build(folder)
    if run.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert model.is_gradient_checkpointing
    batches = batches_of(processor, folder / "data" / "a.jsonl", groups, data)
    make_trainer(folder, model, processor, batches, spec, **run).train()
    return model.state_dict()


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=name)


def test_accumulation_of_four_equals_one(tmp_path: Path) -> None:
    spec = stage(train=FULL, learning_rate=1e-3, optimizer={"eps": 1e-3})
    # Uneven on purpose: text alone, one image, several answers.
    split = train_on(tmp_path / "4", [[0], [1, 2, 3], [4], [5, 6, 7]], spec)
    whole = train_on(tmp_path / "1", [[0, 1, 2, 3, 4, 5, 6, 7]], spec)
    assert_close(split, whole, 2e-7)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    spec = stage(train=FULL, learning_rate=1e-3)
    plain = train_on(tmp_path / "plain", [[1, 2]], spec)
    saved = train_on(tmp_path / "saved", [[1, 2]], spec, gradient_checkpointing=True)
    assert_close(saved, plain, 0)


def test_frozen_parts_do_not_change(tmp_path: Path) -> None:
    before = build(tmp_path / "before")[0].state_dict()
    after = train_on(tmp_path / "run", [[1, 2], [3]], stage())
    changed = {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"connector"}  # the one new token is a placeholder, never looked up


def test_rates_follow_the_schedule_of_each_group(tmp_path: Path) -> None:
    spec = stage(
        steps=4,
        learning_rate=1e-3,
        train={"towers": 1e-5},
        schedule={"kind": "linear", "warmup": 0},
    )
    model, processor, data = build(tmp_path)
    batches = batches_of(processor, tmp_path / "data" / "a.jsonl", [[1]], data)
    trainer = make_trainer(tmp_path, model, processor, batches, spec, log_every=1)
    seen: list[dict[str, float]] = []

    def log_window(
        progress: object, stage: str, optimizer: torch.optim.Optimizer, *_: object
    ) -> None:
        seen.append({group["part"]: group["lr"] for group in optimizer.param_groups})

    trainer.reporter.log_window = log_window  # type: ignore[assignment,method-assign]
    trainer.train()
    assert [rates["towers"] for rates in seen] == pytest.approx([1e-5, 7.5e-6, 5e-6, 2.5e-6])
    assert [rates["connector"] for rates in seen] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_gradients_are_clipped_over_all_parameters(tmp_path: Path) -> None:
    free = stage(steps=1, learning_rate=1.0, clip=None, optimizer={"eps": 1e6})
    bound = stage(steps=1, learning_rate=1.0, clip=1e-6, optimizer={"eps": 1e6})
    start = build(tmp_path / "start")[0].state_dict()

    def distance(after: dict[str, Tensor]) -> float:
        return float(sum((after[n] - start[n]).square().sum() for n in start)) ** 0.5

    # With a huge eps the first update is gradient / eps, whose norm is clip / eps.
    assert distance(train_on(tmp_path / "bound", [[1]], bound)) < 1e-8
    assert distance(train_on(tmp_path / "free", [[1]], free)) > 1e-8


def test_a_loss_that_is_not_finite_names_step_and_samples(tmp_path: Path) -> None:
    model, processor, data = build(tmp_path)
    batches = batches_of(processor, tmp_path / "data" / "a.jsonl", [[1]], data)
    model.connector.requires_grad_(False)
    next(model.connector.parameters()).fill_(float("nan"))
    trainer = make_trainer(tmp_path, model, processor, batches, stage("align"))
    with pytest.raises(
        TriptychError, match=r"step 1 \(stage 'align'\): the loss is nan.*a.jsonl:7"
    ):
        trainer.train()


def test_count_is_of_tokens_that_have_a_prediction() -> None:
    batch = {
        "labels": torch.tensor([[5, 5, -100], [-100, 7, 8]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "tiles_per_image": torch.tensor([1, 4]),
    }
    assert count(batch).tolist() == [3, 5, 2]


def test_the_real_loader_fits_the_protocol(tmp_path: Path) -> None:
    _, processor, data = build(tmp_path)
    loader = Loader.open(processor, data, seed=0)
    batches = next(loader.steps())
    assert len(batches) == data.batch.per_step
    assert loader.names()
    assert set(loader.state_dict()) == {"epoch", "batch", "step"}
