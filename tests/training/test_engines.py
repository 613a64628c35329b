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
    assert_same_export,
    batches_of_ranks,
    make_case,
    run_alone,
    run_together,
)

from triptych.errors import RecipeError
from triptych.recipe import Recipe
from triptych.training.checks import check_parallel
from triptych.training.engines import make_engine
from triptych.training.stages import ParallelSpec, RunSpec

MIDDLE, LORA_ENDS = 4, 5  # steps of the stage with LoRA and towers


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return run_alone(make_case(tmp_path_factory.mktemp("alone"), {}, held_out=True))


@pytest.mark.timeout(600)
def test_ddp_and_fsdp2_train_and_resume_like_one_process(alone: Path, tmp_path: Path) -> None:
    fsdp2 = {"engine": "fsdp2"}
    runs = Runs(tmp_path, alone)
    runs.add("ddp", {"engine": "ddp"})
    whole = runs.add("fsdp2", fsdp2, held_out=True)
    folder = whole.run.folder
    again = make_case(tmp_path / "again", fsdp2)
    run_together(tmp_path, [*runs.jobs, Job(again, folder, MIDDLE)])
    to_one = make_case(tmp_path / "2to1", {})
    run_alone(to_one, folder, MIDDLE)

    assert_covers_the_cases(whole)
    for run in (*runs.folders, to_one.run.folder):
        assert_same_curve(run, alone)
    assert_equal_runs(again.run.folder, folder)
    assert_same_export(folder, alone, LORA_ENDS, tmp_path / "exported")
    parts = sorted(path.name for path in (folder / "checkpoints/step-00000004").glob("w*"))
    assert parts == ["weights-00000-of-00002.safetensors", "weights-00001-of-00002.safetensors"]


@pytest.mark.timeout(600)
def test_zero_1_and_2_train_like_one_process(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    runs = Runs(tmp_path, alone)
    for number in (1, 2):
        runs.add(f"zero-{number}", {"engine": "deepspeed", "zero": number})
    run_together(tmp_path, runs.jobs)
    for run in runs.folders:
        assert_same_curve(run, alone)


@pytest.mark.timeout(600)
def test_zero_3_trains_and_resumes_like_one_process(alone: Path, tmp_path: Path) -> None:
    """No parameter is small enough to be kept whole, as it is in large models."""
    pytest.importorskip("deepspeed")
    whole = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    zero: dict[str, Any] = {"engine": "deepspeed", "zero": 3, "deepspeed": whole}
    runs = Runs(tmp_path, alone)
    third = runs.add("zero-3", zero, held_out=True).run.folder
    again = make_case(tmp_path / "again", zero)
    run_together(tmp_path, [*runs.jobs, Job(again, third, MIDDLE)])
    to_one = make_case(tmp_path / "2to1", {})
    run_alone(to_one, third, MIDDLE)

    for run in (*runs.folders, to_one.run.folder):
        assert_same_curve(run, alone)
    assert_equal_runs(again.run.folder, third)
    assert_same_export(third, alone, LORA_ENDS, tmp_path / "exported")


class Runs:
    """Runs in two processes that end like one in one process, each engine in three ways.

    Attributes:
        jobs: of all of them.
    """

    def __init__(self, folder: Path, alone: Path) -> None:
        self.jobs: list[Job] = []
        self._folder, self._alone = folder, alone

    def add(self, name: str, parallel: dict[str, Any], *, held_out: bool = False) -> Recipe:
        """Whole; whole with gradient checkpointing; and from the checkpoint of one process on."""
        offload = {"offload": "cpu"} if parallel["engine"] != "ddp" else {}
        whole = make_case(self._folder / name, parallel, held_out=held_out)
        again = make_case(self._folder / f"{name}-twice", parallel, gradient_checkpointing=True)
        moved = make_case(self._folder / f"{name}-moved", {**parallel, **offload})
        self.jobs += [Job(whole), Job(again), Job(moved, self._alone, MIDDLE)]
        return whole

    @property
    def folders(self) -> list[Path]:
        return [job.recipe.run.folder for job in self.jobs]


def assert_covers_the_cases(made: Recipe) -> None:
    """What the ranks have at the same time: images on neither or on one, more and fewer records."""
    images = [
        {tuple("tiles_per_image" in one for one in pair) for pair in batches_of_ranks(made, index)}
        for index in range(len(made.stages))
    ]
    assert images[0] == {(False, False)}
    assert {(True, False), (False, True)} & images[1]
    pairs = [[len(one["input_ids"]) for one in pair] for pair in batches_of_ranks(made, 3)]
    assert any(one != other for one, other in pairs), pairs
    assert all(stage.steps and made.data.batch.per_step == 4 for stage in made.stages)


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
