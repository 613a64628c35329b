"""DDP, FSDP2 and ZeRO in two processes: the losses of one process, and exact resume.

All runs of an engine share their processes, because starting these takes longest.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.training.engine_cases import (
    Job,
    assert_equal_runs,
    assert_same_curve,
    images_of_ranks,
    make_case,
    run_alone,
    run_together,
)

from triptych.errors import RecipeError
from triptych.recipe import Recipe
from triptych.training.checks import check_parallel
from triptych.training.engines import make_engine
from triptych.training.stages import ParallelSpec, RunSpec

MIDDLE = 4  # of the stage with LoRA and towers


def test_ddp_and_fsdp2_train_and_resume_like_one_process(tmp_path: Path) -> None:
    fsdp2 = {"engine": "fsdp2"}
    alone = run_alone(make_case(tmp_path / "alone", {}, held_out=True))
    ddp = make_case(tmp_path / "ddp", {"engine": "ddp"})
    whole = make_case(tmp_path / "whole", fsdp2, held_out=True)
    from_one = make_case(tmp_path / "1to2", fsdp2, gradient_checkpointing=True)
    again = make_case(tmp_path / "again", fsdp2)
    folder = whole.run.folder
    jobs = [Job(ddp), Job(whole), Job(from_one, alone, MIDDLE), Job(again, folder, MIDDLE)]
    run_together(tmp_path, jobs)
    to_one = make_case(tmp_path / "2to1", {})
    run_alone(to_one, folder, MIDDLE)

    assert_covers_the_cases(whole)
    for made in (ddp, whole, from_one, to_one):
        assert_same_curve(made.run.folder, alone)
    assert_equal_runs(again.run.folder, folder)
    parts = sorted(path.name for path in (folder / "checkpoints/step-00000004").glob("w*"))
    assert parts == ["weights-00000-of-00002.safetensors", "weights-00001-of-00002.safetensors"]


def test_zero_trains_and_resumes_like_one_process(tmp_path: Path) -> None:
    """With stage 3 no parameter is small enough to be kept whole, as it is in large models."""
    pytest.importorskip("deepspeed")
    zero: dict[int, dict[str, Any]] = {n: {"engine": "deepspeed", "zero": n} for n in (1, 2, 3)}
    zero[3]["deepspeed"] = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    alone = run_alone(make_case(tmp_path / "alone", {}, held_out=True))
    whole = {n: make_case(tmp_path / f"zero-{n}", zero[n], held_out=n == 3) for n in (1, 2, 3)}
    offloaded = {**zero[3], "offload": "cpu"}
    from_one = make_case(tmp_path / "1to2", offloaded, gradient_checkpointing=True)
    again = make_case(tmp_path / "again", zero[3])
    third = whole[3].run.folder
    jobs = [*(Job(made) for made in whole.values()), Job(from_one, alone, MIDDLE)]
    run_together(tmp_path, [*jobs, Job(again, third, MIDDLE)])
    to_one = make_case(tmp_path / "2to1", {})
    run_alone(to_one, third, MIDDLE)

    for made in (*whole.values(), from_one, to_one):
        assert_same_curve(made.run.folder, alone)
    assert_equal_runs(again.run.folder, third)


def assert_covers_the_cases(made: Recipe) -> None:
    """No rank has an image in the first stage; in the second, sometimes one of two has none."""
    seen = [set(images_of_ranks(made, index, made.stages[index].steps or 0)) for index in (0, 1)]
    assert seen[0] == {(False, False)}
    assert {(True, False), (False, True)} & seen[1]


def test_offload_needs_an_engine_that_can() -> None:
    with pytest.raises(ValueError, match="use engine fsdp2"):
        ParallelSpec(engine="ddp", offload="cpu")


def test_every_engine_but_single_says_how_to_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RecipeError, match=r"'fsdp2'.*--processes N"):
        make_engine(ParallelSpec(engine="fsdp2"))


def test_offload_to_disk_needs_zero_3_and_a_folder() -> None:
    with pytest.raises(ValueError, match="needs engine deepspeed with zero 3"):
        ParallelSpec(engine="fsdp2", offload="nvme", nvme=Path("disk"))
    with pytest.raises(ValueError, match=r"needs parallel\.nvme"):
        ParallelSpec(engine="deepspeed", offload="nvme")


def test_keys_of_deepspeed_that_the_recipe_decides_are_refused() -> None:
    with pytest.raises(ValueError, match="'gradient_clipping' follows from the rest"):
        ParallelSpec(engine="deepspeed", deepspeed={"gradient_clipping": 0.5})


def test_zero_3_and_chunks_of_tiles_are_refused_together(tmp_path: Path) -> None:
    run = RunSpec(folder=tmp_path, tower_tiles=4)
    check_parallel(ParallelSpec(engine="fsdp2"), run)
    check_parallel(ParallelSpec(engine="deepspeed", zero=2), run)
    with pytest.raises(RecipeError, match="does not go with ZeRO-3"):
        check_parallel(ParallelSpec(engine="deepspeed", zero=3), run)


def test_deepspeeds_configuration_follows_from_the_recipe() -> None:
    engine = pytest.importorskip("triptych.training.engines.deepspeed")
    deeper = {"zero_optimization": {"reduce_bucket_size": 1000}, "dump_state": True}
    spec = ParallelSpec(engine="deepspeed", offload="nvme", nvme=Path("/fast"), deepspeed=deeper)
    made = engine.make_config(spec, bf16=True, max_norm=None)
    zero = made["zero_optimization"]
    assert (zero["stage"], zero["reduce_bucket_size"]) == (3, 1000)
    assert zero["offload_param"]["nvme_path"] == zero["offload_optimizer"]["nvme_path"] == "/fast"
    assert made["gradient_clipping"] == 0.0
    assert made["dump_state"]
    assert made["torch_autocast"]["dtype"] == "bfloat16"
