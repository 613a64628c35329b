"""What a person sees of a run: tables, a progress bar on a terminal, lines in a log file."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

REFRESHES_PER_SECOND = 2


class Display:
    """Speaks on the main rank and is silent on the others.

    Args:
        main: whether this process is the main rank.
    """

    def __init__(self, main: bool) -> None:
        self._console = Console(quiet=not main, soft_wrap=True)
        self._live = main and self._console.is_terminal
        self._total = 0
        self._bar = self._make_bar()
        self._task = self._bar.add_task("", total=0, name="", numbers="")

    def _make_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.fields[name]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
            disable=not self._live,
        )

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """A bar of its own for work before the training; gives a callback (done, total)."""
        started = time.monotonic()
        with self._make_bar() as bar:
            task = bar.add_task("", total=None, name=name, numbers="")

            def update(done: int, total: int) -> None:
                left = (time.monotonic() - started) * (total - done) / max(done, 1)
                bar.update(task, completed=done, total=total, numbers=f"ETA {duration(left)}")

            yield update
        self.say(f"{name} in {time.monotonic() - started:.1f} s")

    @contextmanager
    def training(self, total: int, step: int) -> Iterator[None]:
        """Show the bar of the run: ``total`` optimizer steps, of which ``step`` are done."""
        self._total = total
        self._bar.update(self._task, total=total, completed=step)
        with self._bar:
            yield

    def say(self, what: RenderableType) -> None:
        """Print above the bar."""
        self._console.print(escape(what) if isinstance(what, str) else what)

    def advance(self, step: int, stage: str) -> None:
        """Move the bar; cheap enough for every step."""
        self._bar.update(self._task, completed=step, name=stage)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Show a training entry: beside the bar, or as a line where there is no terminal."""
        numbers = (
            f"loss {entry['loss']:.4f}  {entry['tokens_per_second']:,.0f} tok/s  "
            f"{entry['images_per_second']:,.1f} img/s  ETA {duration(entry['eta_seconds'])}"
        )
        if not self._live:
            self.say(f"{entry['stage']} {entry['step']}/{self._total}  {numbers}")
        else:
            self._bar.update(self._task, numbers=numbers)

    def log_held_out(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Show one line per held-out set."""
        for entry in entries:
            self.say(
                f"step {entry['step']}  held-out {entry['set']}: loss {entry['loss']:.4f}  "
                f"tokens {100 * entry['token_accuracy']:.1f} %  "
                f"answers {100 * entry['answer_accuracy']:.1f} % of {entry['answers']}"
            )

    def say_sample(self, entry: Mapping[str, Any]) -> None:
        """Show one sample prediction on one line."""
        question, answer = _short(entry["question"]), _short(entry["answer"])
        mark = "=" if answer == _short(entry["expected"]) else "x"
        self.say(f"  {mark} {question} -> {answer} (expected: {_short(entry['expected'])})")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:67] + "..."


def duration(seconds: float) -> str:
    """``3725.0`` -> ``1:02:05``; ``65.0`` -> ``1:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
