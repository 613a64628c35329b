"""Where a builder's work runs: in several processes of this machine, or on a Ray cluster."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context

from triptych.errors import DataError
from triptych.synth.pipeline import Runner, Task, Work, in_turn

DIED = "the process that worked on it died"


@dataclass(frozen=True)
class Processes:
    """Runs work in ``count`` processes; an item that kills its process goes to the quarantine."""

    count: int

    def __call__(self, work: Work, tasks: Sequence[Task], /) -> Iterator[int]:
        """Yield the number of each task when it is done."""
        left = list(tasks)
        while left:
            try:
                yield from self._pool(work, left)
                return
            except BrokenProcessPool:
                left = [task for task in left if not work.done(task)]
            # Processes take tasks in order: those at work when one died are among the first.
            for task in left[: 2 * self.count + 1]:
                yield from self._alone(work, task)
            left = [task for task in left if not work.done(task)]

    def _pool(self, work: Work, tasks: Sequence[Task]) -> Iterator[int]:
        pool = ProcessPoolExecutor(min(self.count, len(tasks)), get_context("spawn"))
        try:
            for future in as_completed([pool.submit(work, task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _alone(self, work: Work, task: Task) -> Iterator[int]:
        try:
            yield from self._pool(work, [task])
        except BrokenProcessPool:
            work.fail(task, DIED)
            yield task.number


@dataclass(frozen=True)
class OnRay:
    """Runs work with Ray Data: on the cluster that RAY_ADDRESS names, or else on this machine.

    The folder must be on a disk that every node sees.
    """

    count: int

    def __call__(self, work: Work, tasks: Sequence[Task], /) -> Iterator[int]:
        """Yield the number of each task when it is done.

        Raises:
            DataError: ray is not installed.
        """
        if not tasks:
            return
        try:
            ray, data = import_module("ray"), import_module("ray.data")
        except ImportError:
            raise DataError(
                "--ray needs Ray Data; install it with: pip install triptych[ray]"
            ) from None
        if not ray.is_initialized():
            local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": self.count}
            ray.init(**local, log_to_driver=False, include_dashboard=False)
        data.DataContext.get_current().enable_progress_bars = False
        rows = [{"number": task.number, "item": task.item} for task in tasks]
        blocks = min(len(rows), 1000)
        made = data.from_items(rows, override_num_blocks=blocks).map(_OneRow(work))
        for row in made.iter_rows():
            yield int(row["number"])


@dataclass(frozen=True)
class _OneRow:
    work: Work

    def __call__(self, row: dict[str, object]) -> dict[str, object]:
        self.work(Task(int(str(row["number"])), str(row["item"])))
        return row


def choose_runner(workers: int, *, ray: bool) -> Runner:
    """The runner for so many processes."""
    if ray:
        return OnRay(workers)
    return Processes(workers) if workers > 1 else in_turn
