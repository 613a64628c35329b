"""What has to fit together before a run begins."""

from collections.abc import Sequence

from triptych.data.spec import DataSpec
from triptych.errors import RecipeError
from triptych.training.stages import ParallelSpec, RunSpec, StageSpec


def check_cache(data: DataSpec, stages: Sequence[StageSpec]) -> None:
    """Check that features may be cached.

    Raises:
        RecipeError: a stage trains the towers whose features would be cached.
    """
    training = [stage.name for stage in stages if stage.train.trains_towers]
    if data.cache_features and training:
        raise RecipeError(
            f"data.cache_features is true, but stage '{training[0]}' trains the towers, so their "
            "features change; set data.cache_features=false or freeze the towers in every stage"
        )


def check_parallel(parallel: ParallelSpec, run: RunSpec) -> None:
    """Check that every rank can run its tower equally often.

    Raises:
        RecipeError: ZeRO-3 would gather a tower once for each chunk of tiles, and ranks have
            different numbers of them.
    """
    if run.tower_tiles is not None and parallel.engine == "deepspeed" and parallel.zero == 3:
        raise RecipeError(
            "run.tower_tiles does not go with ZeRO-3: ranks with more tiles would wait for the "
            "others for ever; set run.tower_tiles=null and lower data.batch.tiles, or use "
            "parallel.engine=fsdp2 or parallel.zero=2"
        )
