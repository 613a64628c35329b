"""The SLURM script of the documentation, with an srun that starts two machines' torchrun on one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.training.engine_cases import assert_equal_runs, free_ports
from tests.training.tiny import entries, recipe, stage

from triptych.data.spec import BatchSpec
from triptych.recipe import load_recipe, save_recipe

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
WATCHDOG_SECONDS = 280
SRUN = """#!/bin/bash
for node in 1 2; do "$@" & machines+=($!); done
for machine in "${machines[@]}"; do wait "$machine" || exit 1; done
"""
SCONTROL = """#!/bin/bash
[ "$1 $2 $3" = "show hostnames two-nodes" ] && printf 'localhost\\nother\\n'
"""


@pytest.mark.slow
@pytest.mark.timeout(2 * WATCHDOG_SECONDS + 20)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_trains_and_goes_on(tmp_path: Path) -> None:
    stages = (stage("all", steps=4, train={"towers": True, "language": "lora"}),)
    batch = BatchSpec(tokens=64, tiles=4, samples=1, per_step=4)
    settings = {"checkpoint_every": 2, "keep": 9}
    made = recipe(tmp_path, stages, data={"batch": batch, "held_out": {}}, run=settings)
    save_recipe(made, tmp_path / "recipe.yaml")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    submit(tmp_path)
    run, whole = tmp_path / "runs" / "mine", tmp_path / "whole"
    assert load_recipe(run / "recipe.yaml").parallel.engine == "fsdp2"
    parts = [path.name for path in (run / "checkpoints/step-00000002").glob("weights*")]
    assert sorted(parts) == [f"weights-0000{rank}-of-00002.safetensors" for rank in (0, 1)]
    shutil.copytree(run, whole)
    shutil.rmtree(run / "checkpoints/step-00000004")  # lost with its machine
    shutil.rmtree(run / "model")
    assert "resuming runs/mine after step 2 of 4" in submit(tmp_path)
    assert [entry["step"] for entry in entries(run)] == [1, 2, 3, 4]
    assert_equal_runs(run, whole)


def submit(folder: Path) -> str:
    """What the script writes to stdout; all that it starts is killed if it hangs."""
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "job.sh").write_text(script.replace(":29500", f":{free_ports(1)[0]}"))
    programs = [str(folder / "tools"), str(Path(sys.executable).parent), os.environ["PATH"]]
    done = subprocess.run(
        ["timeout", "-k", "5", str(WATCHDOG_SECONDS), "bash", "job.sh"],
        cwd=folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join(programs),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SLURM_JOB_NODELIST": "two-nodes",
            "SLURM_NNODES": "2",
            "SLURM_GPUS_ON_NODE": "1",
            "SLURM_JOB_ID": "7",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
