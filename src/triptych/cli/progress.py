"""The bar of long work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(doing: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's error stream, so that what is printed can be piped.

    Args:
        doing: one word for the work.
        hidden: show nothing.

    Yields:
        What is called with the things done and their number.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn(doing),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=hidden or not console.is_terminal,
    ) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)
