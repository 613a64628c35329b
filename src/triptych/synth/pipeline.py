"""How a builder runs: item by item, in any number of processes, resumable, whole or not at all.

A builder names its items (files, or portions of what it draws) and makes samples of one item at a
time. Everything that an item draws at random comes from the seed and the item's own name, and what
was made of it is kept beside the folder until all is done; so the files are the same however many
processes made them, in whatever order, and however often they were interrupted.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from triptych.errors import DataError
from triptych.synth.album import Album, Sample
from triptych.synth.assemble import assemble
from triptych.synth.files import Manifest, claim, read_manifest

Progress: TypeAlias = Callable[[int, int], None]

PLAN = "plan.json"
PARTS = "parts"


class Builder(Protocol):
    """Makes the samples of a data set. It travels to other processes, so it is small to pickle."""

    @property
    def name(self) -> str:
        """Name of the data set, and first part of the ids of its records."""

    @property
    def seed(self) -> int:
        """Of everything drawn at random."""

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made, as plain values; other values are another plan."""

    def items(self) -> Sequence[str]:
        """Names of the items, each once, in the order in which their samples are written."""

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Make the samples of one item.

        Raises:
            DataError: the item is of no use; it goes to the quarantine with this message.
        """


@dataclass(frozen=True)
class Task:
    """An item of work and its number."""

    number: int
    item: str


@dataclass(frozen=True)
class Work:
    """Makes items one at a time and keeps each in a file; a runner calls it in any process."""

    builder: Builder
    folder: Path

    def __call__(self, task: Task) -> int:
        """Make an item, unless it is made already; returns its number."""
        if self.done(task):
            return task.number
        name = f"images/{task.number:05d}"
        # An interrupted attempt may have left pictures here.
        shutil.rmtree(self.folder / name, ignore_errors=True)
        album = Album(self.folder, name)
        rng = random.Random(f"{self.builder.seed} {self.builder.name} {task.item}")
        try:
            samples = list(self.builder.make(task.item, album, rng))
        except DataError as error:
            self.fail(task, str(error))
            return task.number
        self._write(
            task,
            {
                "samples": [_plain(sample) for sample in samples],
                "hashes": album.hashes,
                "rejected": [asdict(one) for one in album.rejected],
            },
        )
        return task.number

    def fail(self, task: Task, reason: str) -> None:
        """Put a whole item into the quarantine."""
        shutil.rmtree(self.folder / f"images/{task.number:05d}", ignore_errors=True)
        rejected = [{"where": task.item, "reason": reason}]
        self._write(task, {"samples": [], "hashes": {}, "rejected": rejected})

    def done(self, task: Task) -> bool:
        """Whether an item was made."""
        return self.part(task.number).exists()

    def part(self, number: int) -> Path:
        """The file that holds what was made of an item."""
        return self.folder / PARTS / f"{number:05d}.json"

    def _write(self, task: Task, fields: Mapping[str, object]) -> None:
        path = self.part(task.number)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)


class Runner(Protocol):
    """Runs work on tasks, in any order and any process, and says which are done."""

    def __call__(self, work: Work, tasks: Sequence[Task], /) -> Iterator[int]:
        """Yield the number of each task when it is done."""


def in_turn(work: Work, tasks: Sequence[Task]) -> Iterator[int]:
    """Run tasks one after the other in this process."""
    yield from map(work, tasks)


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes:
        manifest: what the folder says about itself.
        resumed: items that an interrupted run had made already.
        fresh: False where the folder held the same data already.
    """

    manifest: Manifest
    resumed: int = 0
    fresh: bool = True


def build(
    builder: Builder,
    out: Path,
    *,
    runner: Runner = in_turn,
    replace_other: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Make a data set in ``out``; a folder that was built from an equal plan is left as it is.

    An interrupted build leaves ``.<name>.partial`` beside ``out``; the next one with the same plan
    goes on from there.

    Args:
        builder: what makes the samples.
        out: folder that receives images and records.
        runner: where items are made.
        replace_other: replace a folder that was built from another plan.
        progress: called with the items done and their number.

    Raises:
        DataError: ``out`` holds something else, or nothing at all could be made.
    """
    plan = json.loads(json.dumps({"source": builder.name, **builder.describe()}))
    known = read_manifest(out)
    if known is not None and known.plan == plan:
        return Built(known, fresh=False)
    claim(out, replace=replace_other)
    items = builder.items()
    if len(set(items)) < len(items):
        raise ValueError(f"{builder.name} names an item twice")
    if not items:
        raise DataError(f"{builder.name}: there is nothing to build from in what was given")
    partial = _partial(out, plan)
    work = Work(builder, partial)
    tasks = [Task(number, item) for number, item in enumerate(items)]
    missing = [task for task in tasks if not work.done(task)]
    resumed = len(tasks) - len(missing)
    for done, _ in enumerate(runner(work, missing), resumed + 1):
        if progress is not None:
            progress(done, len(tasks))
    lost = [task.item for task in tasks if not work.done(task)]
    if lost:
        raise DataError(
            f"{partial}: nothing came back of {len(lost)} items (first: {lost[0]}); the folder "
            "must be on a disk that all processes see"
        )
    manifest = assemble(partial, [work.part(task.number) for task in tasks], builder.name, plan)
    shutil.rmtree(partial / PARTS)
    (partial / PLAN).unlink()
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return Built(manifest, resumed)


def _partial(out: Path, plan: Mapping[str, object]) -> Path:
    """The folder of the unfinished build: an earlier one of the same plan, or an empty one."""
    partial = out.with_name(f".{out.name}.partial")
    file = partial / PLAN
    try:
        same = json.loads(file.read_text(encoding="utf-8")) == plan
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        same = False
    if not same:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / PARTS).mkdir(parents=True)
        file.write_text(json.dumps(plan), encoding="utf-8")
    return partial


def _plain(sample: Sample) -> dict[str, Any]:
    names = [str(image.image) for image in sample.record.images]
    return {
        "file": sample.file,
        "split": sample.split,
        "images": names,
        "record": sample.record.to_json(),
    }
