"""Several training processes on one machine, started and watched by torchrun's launcher."""

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from triptych.errors import RecipeError

USER_ERROR = 2


def launched() -> bool:
    """Whether this process was started by torchrun."""
    return "RANK" in os.environ


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run ``python -m triptych ARGUMENTS`` in several processes until all have ended.

    On a CPU the processes share its cores: each gets one thread, unless OMP_NUM_THREADS says more.
    What they write to stderr is kept until the end: where one fails the others fail after it, and
    only the first failure says why.

    Args:
        arguments: of the console command.
        processes: how many.

    Returns:
        The exit code: 0, or that of the first process that failed.

    Raises:
        RecipeError: ``processes`` is not positive, or this process is one of several already.
    """
    if processes < 1:
        raise RecipeError(f"--processes {processes}: at least one process has to train")
    if launched():
        raise RecipeError("--processes starts the processes itself; leave it out under torchrun")
    if processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=Std.ERR),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "triptych", *arguments)
        except ChildFailedError as error:
            rank, code = _cause(error)
            _show(Path(folder), rank)
            return code
        _show(Path(folder), 0)
        return 0


def _cause(error: ChildFailedError) -> tuple[int, int]:
    """Rank and exit code of the failure that the others follow from: a user's, or the first."""
    failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
    mended = [failure for failure in failures if failure.exitcode == USER_ERROR]
    cause = (mended or failures)[0]
    return cause.local_rank, cause.exitcode if cause.exitcode > 0 else 128 - cause.exitcode


def _show(folder: Path, rank: int) -> None:
    for path in folder.glob(f"**/{rank}/stderr.log"):
        sys.stderr.write(path.read_text("utf-8", errors="replace"))
