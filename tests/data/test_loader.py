import json
import pickle
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.tiny import all_tiles, answer, data_spec, many, user, write_jsonl
from torch import Tensor

from triptych.data.loader import Loader
from triptych.data.prepare import Preparer
from triptych.data.spec import BatchSpec, SourceSpec
from triptych.errors import CheckpointError, DataError, RecipeError
from triptych.model.processing import TriptychProcessor

Batch = dict[str, Tensor]
COUNT = 41


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(tmp_path_factory.mktemp("data"), COUNT)


def open_loader(processor: TriptychProcessor, path: Path, **options: Any) -> Loader:
    fields = options.pop("fields", {})
    return Loader.open(processor, data_spec(path, **fields), seed=7, **options)


def take(loader: Loader, steps: int) -> list[list[Batch]]:
    return list(islice(loader.steps(), steps))


def same(first: Any, second: Any) -> bool:
    """Equality of nested lists of batches, bit by bit."""
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def numbers(processor: TriptychProcessor, batches: list[Batch]) -> Counter[str]:
    """The answers that are supervised: each names its record."""
    found: Counter[str] = Counter()
    for batch in batches:
        for row in batch["labels"]:
            text = processor.tokenizer.decode(row[row != -100], skip_special_tokens=True)
            found[text.strip()] += 1
    return found


def test_one_epoch_gives_every_record_once(processor: TriptychProcessor, path: Path) -> None:
    batch = BatchSpec(tokens=512, tiles=12, per_step=1)
    loader = open_loader(processor, path, fields={"batch": batch})
    seen = numbers(processor, [b for step in take(loader, loader.total_steps(1)) for b in step])
    assert seen == Counter({f"no {k}": 1 for k in range(COUNT)})


def test_batches_hold_both_budgets_and_carry_whole_samples(
    processor: TriptychProcessor, path: Path
) -> None:
    loader = open_loader(processor, path)
    mixed = 0
    for batch in (b for step in take(loader, 20) for b in step):
        assert batch["input_ids"].numel() <= 512
        images = batch["images_per_sample"]
        mixed += 0 in images and bool(images.any())
        placeholders = (batch["input_ids"] == processor.image_token_id).sum(dim=1)
        assert torch.equal(placeholders, 4 * images)
        if images.any():
            assert len(all_tiles(batch)) == int(batch["tiles_per_image"].sum()) <= 12
            assert len(batch["tiles_per_image"]) == int(images.sum())
    assert mixed, "text-only samples must meet others in one batch"


def test_pixels_follow_the_order_of_rows_and_images(
    processor: TriptychProcessor, path: Path
) -> None:
    batch = BatchSpec(tokens=4096, tiles=200, per_step=1, window=64)
    (rows,) = next(open_loader(processor, path, fields={"batch": batch}).steps())
    shades = iter((all_tiles(rows).float().mean(dim=(1, 2, 3)) / 16).round().int().tolist())
    for labels, images in zip(rows["labels"], rows["images_per_sample"].tolist(), strict=True):
        number = int(processor.tokenizer.decode(labels[labels != -100])[3:].split("<")[0])
        assert [next(shades) for _ in range(images)] == [(number + j) % 8 for j in range(images)]


@pytest.mark.parametrize(
    ("context", "workers"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)]
)
def test_workers_change_nothing(
    processor: TriptychProcessor, path: Path, context: str, workers: int
) -> None:
    alone = take(open_loader(processor, path), 8)
    helped = open_loader(processor, path, fields={"workers": workers}, context=context)
    assert same(take(helped, 8), alone)


def test_what_a_spawned_worker_gets_makes_the_same_batches(
    processor: TriptychProcessor, path: Path
) -> None:
    loader = open_loader(processor, path)
    preparer = Preparer(loader.corpus, loader.encoder)
    data = pickle.dumps(preparer)
    assert same(pickle.loads(data)[[3, 1, 4]].batch, preparer[[3, 1, 4]].batch)


def test_the_loader_leaves_torchs_random_state_alone(
    processor: TriptychProcessor, path: Path
) -> None:
    before = torch.get_rng_state()
    take(open_loader(processor, path), 3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stop", [0, 1, 5, 9])
def test_resume_gives_the_same_steps_as_no_interruption(
    processor: TriptychProcessor, path: Path, stop: int
) -> None:
    whole = take(open_loader(processor, path), 14)
    first = open_loader(processor, path)
    steps = first.steps()
    assert same([next(steps) for _ in range(stop)], whole[:stop])
    state = json.loads(json.dumps(first.state_dict()))
    assert state["step"] == stop
    second = open_loader(processor, path)
    second.load_state_dict(state)
    assert same(take(second, 3), whole[stop : stop + 3])
    third = open_loader(processor, path)
    third.load_state_dict(second.state_dict())
    assert same(take(third, 14 - stop - 3), whole[stop + 3 :])


def test_reading_ahead_does_not_move_the_state(processor: TriptychProcessor, path: Path) -> None:
    loader = open_loader(processor, path, fields={"workers": 2})
    steps = loader.steps()
    next(steps)
    assert loader.state_dict() == {"epoch": 0, "batch": 2, "step": 1}
    assert len(loader.names()) == len(set(loader.names())) > 1


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_out_the_plan_of_one(
    processor: TriptychProcessor, path: Path, world: int
) -> None:
    fields = {"batch": BatchSpec(tokens=512, tiles=12, per_step=4, window=16)}
    alone = take(open_loader(processor, path, fields=fields), 6)
    parts = [
        take(open_loader(processor, path, fields=fields, rank=rank, world=world), 6)
        for rank in range(world)
    ]
    for step, micro_batches in enumerate(alone):
        for index, batch in enumerate(micro_batches):
            assert same(parts[index % world][step][index // world], batch)


def test_a_run_may_resume_with_another_number_of_ranks(
    processor: TriptychProcessor, path: Path
) -> None:
    alone = take(open_loader(processor, path), 8)
    first = open_loader(processor, path, rank=1, world=2)
    take(first, 3)
    second = open_loader(processor, path)
    second.load_state_dict(first.state_dict())
    assert same(take(second, 5), alone[3:])


def test_the_last_step_of_an_epoch_is_filled_up_from_the_next(
    processor: TriptychProcessor, path: Path
) -> None:
    fields = {"batch": BatchSpec(tokens=512, tiles=12, per_step=3, window=16)}
    loader = open_loader(processor, path, fields=fields)
    steps = loader.total_steps(3)
    assert loader.total_steps(1) < loader.total_steps(1.5) < loader.total_steps(2) < steps
    batches = [batch for step in take(loader, steps) for batch in step]
    seen = numbers(processor, batches)
    assert min(seen.values()) == 3
    assert max(seen.values()) <= 4
    assert loader.state_dict()["epoch"] in (2, 3)


def test_weights_choose_how_often_a_source_is_read(
    processor: TriptychProcessor, path: Path
) -> None:
    other = write_jsonl(path.parent / "other.jsonl", [[user("x"), answer("yes")]] * 10)
    sources = {"a": SourceSpec(path=path, weight=0.0), "b": SourceSpec(path=other, weight=2.0)}
    batch = BatchSpec(tokens=512, tiles=12, per_step=1)
    loader = open_loader(processor, path, fields={"sources": sources, "batch": batch})

    def epoch(part: Loader) -> Counter[str]:
        return numbers(processor, [b for step in take(part, part.total_steps(1)) for b in step])

    assert epoch(loader) == Counter({"yes": 20})
    stage = loader.derive(weights={"a": 1.0}, seed=1)
    assert sum(epoch(stage).values()) == COUNT
    with pytest.raises(RecipeError, match="unknown source 'c'"):
        loader.derive(weights={"c": 1.0})


def test_held_out_batches_give_every_sample_once_shared_out_evenly(
    processor: TriptychProcessor, path: Path
) -> None:
    fields = {"held_out": {"h": SourceSpec(path=path, limit=30)}}
    seen: Counter[str] = Counter()
    lengths = []
    for rank in range(2):
        batches = list(open_loader(processor, path, fields=fields, rank=rank, world=2).held_out())
        seen += numbers(processor, batches)
        lengths.append(len(batches))
    assert lengths[0] == lengths[1]
    del seen[""]
    assert seen == Counter({f"no {k}": 1 for k in range(30)})
    loader = open_loader(processor, path, fields=fields)
    assert same(list(loader.held_out()), list(loader.held_out()))
    assert numbers(processor, list(loader.held_out(limit=3))).keys() == {"no 0", "no 10", "no 20"}
    assert [r.messages[1].text for r in loader.held_out_records(2)] == ["no 0", "no 15"]
    with pytest.raises(DataError, match="unknown held-out source 'x'; known: h"):
        list(loader.held_out("x"))


@pytest.fixture
def broken(path: Path, tmp_path: Path) -> Path:
    """Four good records, and three that are bad in different ways, on lines 2, 4 and 6."""
    cut = (path.parent / "1.png").read_bytes()[:48]
    (tmp_path / "cut.png").write_bytes(cut)
    (tmp_path / "good.png").write_bytes((path.parent / "2.png").read_bytes())
    bad = [
        [user("x", "gone.png"), answer("no")],
        [user("x", "good.png", "cut.png"), answer("no")],
        [user("x")],
    ]
    records = [[user("x", "good.png"), answer(f"no {k}")] for k in range(4)]
    for place, messages in zip((1, 3, 5), bad, strict=True):
        records.insert(place, messages)
    return write_jsonl(tmp_path / "broken.jsonl", records)


def test_bad_records_are_left_out_and_listed_once(
    processor: TriptychProcessor, broken: Path, tmp_path: Path
) -> None:
    quarantine = tmp_path / "quarantine.jsonl"
    batch = BatchSpec(tokens=64, tiles=2, samples=1, per_step=1)
    loader = open_loader(
        processor, broken, quarantine=quarantine, fields={"on_error": "skip", "batch": batch}
    )
    (report,) = loader.corpus.reports
    assert (report.records, report.kept, report.skipped) == (7, 5, 2)
    assert "2 skipped as bad" in str(report)
    batches = [b for step in take(loader, loader.total_steps(2)) for b in step]
    seen = numbers(processor, batches)
    assert seen == Counter({**{f"no {k}": 2 for k in range(4)}, "": 2})
    entries = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [entry["where"].rsplit(":", 1)[1] for entry in entries] == ["2", "6", "4"]
    assert [entry["image"] for entry in entries] == ["gone.png", None, "cut.png"]
    assert "nothing is supervised" in entries[1]["reason"]
    take(loader.derive(), 8)
    assert len(quarantine.read_text().splitlines()) == 3


def test_an_empty_micro_batch_is_one_unsupervised_token(
    processor: TriptychProcessor, broken: Path
) -> None:
    batch = BatchSpec(tokens=64, tiles=2, samples=1, per_step=5)
    loader = open_loader(processor, broken, fields={"on_error": "skip", "batch": batch})
    empty = [b for b in take(loader, 1)[0] if (b["labels"] == -100).all()]
    assert len(empty) == 1
    assert empty[0]["input_ids"].shape == (1, 1)
    assert empty[0]["images_per_sample"].tolist() == [0]
    assert "pixel_values" not in empty[0]


def test_on_error_raise_names_the_first_bad_record(
    processor: TriptychProcessor, broken: Path
) -> None:
    with pytest.raises(DataError, match=r"broken.jsonl:2: image 1: .*gone.png"):
        open_loader(processor, broken)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_stops_the_run_without_a_workers_traceback(
    processor: TriptychProcessor, broken: Path, workers: int
) -> None:
    lines = broken.read_text().splitlines()
    broken.write_text("\n".join([lines[0], lines[3]]) + "\n")
    loader = open_loader(processor, broken, fields={"workers": workers})
    with pytest.raises(DataError) as caught:
        take(loader, 2)
    assert str(caught.value).startswith(f"{broken}:2: image 2: ")
    assert "Traceback" not in str(caught.value)


def test_overflow_is_counted_per_source(processor: TriptychProcessor, path: Path) -> None:
    for overflow in ("drop", "trim_rounds"):
        long = [user("is there a circle? " * 9), answer("no"), user("x"), answer("yes")]
        file = write_jsonl(path.parent / "long.jsonl", [long, [user("x"), answer("no")]])
        loader = open_loader(processor, file, fields={"max_tokens": 30, "overflow": overflow})
        (report,) = loader.corpus.reports
        assert (report.dropped, report.trimmed) == ((1, 0) if overflow == "drop" else (0, 1))
        assert report.records == report.kept + report.dropped + report.skipped


def test_a_source_that_loses_every_record_is_an_error(
    processor: TriptychProcessor, path: Path
) -> None:
    with pytest.raises(DataError, match="source 'a': none of its 41 records can be used"):
        open_loader(processor, path, fields={"max_tokens": 1, "overflow": "drop"})


def test_budgets_and_ranks_that_cannot_work_say_what_to_do(
    processor: TriptychProcessor, path: Path
) -> None:
    with pytest.raises(DataError, match=r"sample .*many.jsonl:\d+ alone has .*data.batch.tokens"):
        open_loader(processor, path, fields={"batch": BatchSpec(tokens=10)})
    with pytest.raises(RecipeError, match="multiple of their number"):
        open_loader(processor, path, rank=0, world=3)
    with pytest.raises(CheckpointError, match="loader state"):
        open_loader(processor, path).load_state_dict({"epoch": 1})


def test_the_size_pass_reports_progress(processor: TriptychProcessor, path: Path) -> None:
    calls: list[tuple[int, int]] = []
    open_loader(processor, path, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (COUNT, COUNT)


def _endless(loader: Loader) -> Iterator[list[Batch]]:
    return loader.steps()


def test_an_abandoned_iterator_lets_its_workers_go(
    processor: TriptychProcessor, path: Path
) -> None:
    loader = open_loader(processor, path, fields={"workers": 1})
    steps = _endless(loader)
    next(steps)
    del steps
    assert same(take(loader, 1), take(open_loader(processor, path), 2)[1:])
