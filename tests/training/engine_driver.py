"""One of several processes that train one recipe after the other.

    RANK=0 ... python engine_driver.py jobs.json

``jobs.json`` is a list of {"recipe": file, "port": number, "whole": folder or null, "step":
number}.
With ``whole`` the run goes on from the checkpoint that the run in that folder had at ``step``.
"""

import json
import os
import shutil
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


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        begin = time.monotonic()
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
        print(f"{run} took {time.monotonic() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
