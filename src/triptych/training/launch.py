"""Several training processes on one machine, started and watched by torchrun's launcher."""

import os
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from triptych.errors import RecipeError


def launched() -> bool:
    """Whether this process was started by torchrun."""
    return "RANK" in os.environ


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run ``python -m triptych ARGUMENTS`` in several processes until all have ended.

    On a CPU the processes share its cores: each gets one thread, unless OMP_NUM_THREADS says more.

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
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "triptych", *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0
