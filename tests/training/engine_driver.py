"""Several processes that train one recipe after the other.

    WORLD_SIZE=2 ... python engine_driver.py jobs.json

``jobs.json`` is a list of {"recipe": file, "port": number, "whole": folder or null, "step":
number}.
With ``whole`` the run goes on from the checkpoint that the run in that folder had at ``step``.
What rank R writes is in ``rank-R.txt`` beside the list. The processes are forked after all imports,
which take most of the time.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from triptych.recipe import load_recipe
from triptych.training.run import train


def stop_at(whole: Path, step: int, run: Path) -> None:
    """Make ``run`` the folder of a run like that in ``whole`` that was killed after a step."""
    unfinished = run.with_name(f"unfinished-{run.name}")
    shutil.copytree(whole, unfinished)
    shutil.rmtree(unfinished / "model")
    for path in (unfinished / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    unfinished.rename(run)


def train_all(jobs: Path) -> None:
    """Train as one rank."""
    for job in json.loads(jobs.read_text(encoding="utf-8")):
        begin = time.monotonic(), time.process_time()
        os.environ["MASTER_PORT"] = str(job["port"])  # every run has a process group of its own
        recipe = load_recipe(Path(job["recipe"]))
        run = recipe.run.folder
        if job["whole"] is not None:
            if os.environ["RANK"] == "0":
                stop_at(Path(job["whole"]), job["step"], run)
            while not run.exists():
                time.sleep(0.01)
        resume = None if job["whole"] is None else run
        train(recipe.model, recipe.data, recipe.stages, recipe.parallel, recipe.run, resume=resume)
        wall, cpu = time.monotonic() - begin[0], time.process_time() - begin[1]
        print(f"{run} took {wall:.1f} s, {cpu:.1f} s of a CPU", flush=True)


def become(rank: int, output: Path) -> None:
    """Make this process a rank that writes to ``output`` alone."""
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def main() -> int:
    """Return 0 when all ranks have ended well; otherwise kill those that are left."""
    jobs, ranks = Path(sys.argv[1]), set()
    for rank in range(int(os.environ["WORLD_SIZE"])):
        if pid := os.fork():
            ranks.add(pid)
        else:
            become(rank, jobs.with_name(f"rank-{rank}.txt"))
            train_all(jobs)
            return 0
    while ranks:
        pid, status = os.wait()
        ranks.discard(pid)
        if status:
            time.sleep(1)  # the others say why, too
            for left in ranks:
                os.kill(left, signal.SIGKILL)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
