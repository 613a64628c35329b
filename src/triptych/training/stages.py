"""What a run trains, in which order, and how: the specs of the training room.

A run is a list of stages. Every stage starts and ends with a plain model: it freezes everything,
unfreezes what its ``train`` names, and merges its LoRA matrices when it ends.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from triptych.data.spec import BatchSpec
from triptych.images.tiling import TilingSpec
from triptych.spec import Spec
from triptych.training.objectives.spec import (
    AlignObjective,
    DpoObjective,
    ObjectiveSpec,
    SftObjective,
)
from triptych.training.schedule import ScheduleSpec
from triptych.training.tuning import Share, TunedPart, TunedPartSpec

OWN_KEYS = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
    "gradient_clipping", "optimizer", "scheduler", "fp16", "bf16", "torch_autocast",
}  # fmt: skip


class PartSpec(Spec):
    """Whether a part of the model trains, and at which learning rate."""

    train: bool = True
    """Whether the part's parameters are updated."""

    learning_rate: PositiveFloat | None = None
    """Peak learning rate of the part; the stage's own when omitted."""


def _part(value: object) -> object:
    """Shorthand: `true`, `false`, or a learning rate."""
    if isinstance(value, bool):
        return {"train": value}
    if isinstance(value, (int, float)):
        return {"train": True, "learning_rate": value}
    return value


Part = Annotated[PartSpec, BeforeValidator(_part, json_schema_input_type=bool | float | PartSpec)]


class TrainSpec(Spec):
    """Which parts of the model train in a stage."""

    towers: TunedPart | tuple[TunedPart, ...] = TunedPartSpec()
    """The vision towers: frozen, lora, full, true, false, a learning rate, or keys; or a list with
    one of these for each tower."""

    connector: Part = PartSpec()
    """The connector between towers and language model, with the learnable tokens of the tiling:
    true, false, a learning rate, or keys."""

    fusion: Part = PartSpec()
    """What the fusion itself trains, such as the gated layers of 'cross': as the connector."""

    new_tokens: Part = PartSpec()
    """The embedding rows added for image tokens: true, false, a learning rate, or keys."""

    embeddings: Part = PartSpec(train=False)
    """The input embeddings of a language model that is frozen or has LoRA (DeepSpeed-VisualChat);
    where they are tied to the output layer, that trains too: as the connector."""

    language: TunedPart = TunedPartSpec()
    """The language model: frozen, lora, full, true, false, a learning rate, or keys."""

    @property
    def trains_towers(self) -> bool:
        """Whether any tower trains."""
        towers = self.towers if isinstance(self.towers, tuple) else (self.towers,)
        return any(tower.trains for tower in towers)


class OptimizerSpec(Spec):
    """AdamW (Loshchilov and Hutter, 2019)."""

    betas: tuple[Share, Share] = (0.9, 0.98)
    """Decay of the running means of the gradient and of its square."""

    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay of matrices; biases, norms and other 1-D parameters never decay."""


class StageSpec(Spec):
    """One stage of training: what trains, on which data, for how long."""

    name: str
    """Name of the stage in tables, logs and the loss picture."""

    train: TrainSpec = TrainSpec()
    """Which parts train, and at which learning rates."""

    steps: PositiveInt | None = None
    """Length in optimizer steps; give this or `epochs`."""

    epochs: PositiveFloat | None = None
    """Length in passes over the stage's data; give this or `steps`."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of the parts that name none of their own."""

    optimizer: OptimizerSpec = OptimizerSpec()
    """Settings of AdamW; its moments start anew in every stage."""

    schedule: ScheduleSpec = ScheduleSpec()
    """Warm-up and decay of all learning rates of the stage."""

    clip: PositiveFloat | None = 1.0
    """Largest gradient norm over all parameters, once per step; null for no clipping."""

    data: dict[str, NonNegativeFloat] | None = None
    """Weights of the data sources in this stage by name; sources left out are not used."""

    tiling: TilingSpec | None = None
    """How this stage cuts images into tiles; `model.tiling` when omitted. The trained model keeps
    that of the last stage."""

    max_tokens: PositiveInt | None = None
    """Most tokens of one sample in this stage; `data.max_tokens` when omitted."""

    batch: BatchSpec | None = None
    """Budgets of a micro-batch in this stage; `data.batch` when omitted."""

    objective: ObjectiveSpec = SftObjective()
    """What the stage minimises: cross-entropy (`sft`), a preference for answers (`dpo`), or how far
    visual tokens are from the words of the answer (`align`)."""

    @property
    def learns_pairs(self) -> bool:
        """Whether the stage learns from pairs of a chosen and a rejected answer."""
        return isinstance(self.objective, DpoObjective)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"stage '{self.name}' needs either steps or epochs (exactly one)")
        return self

    @model_validator(mode="after")
    def _aligns_what_sees(self) -> Self:
        train = self.train
        others = train.language.trains or train.new_tokens.train or train.embeddings.train
        if isinstance(self.objective, AlignObjective) and others:
            raise ValueError(
                f"stage '{self.name}': with objective 'align' only what sees can train, because "
                "the language model does not run; set train: {connector: true, language: frozen, "
                "new_tokens: false}"
            )
        return self

    @model_validator(mode="after")
    def _adapter_has_a_base(self) -> Self:
        objective, train = self.objective, self.train
        if not isinstance(objective, DpoObjective) or objective.reference != "adapter_off":
            return self
        others = train.connector.train or train.new_tokens.train or train.embeddings.train
        others = others or train.trains_towers
        if train.language.mode != "lora" or others:
            raise ValueError(
                f"stage '{self.name}': with reference 'adapter_off' the reference is the model "
                "without its LoRA matrices, so nothing else may train; set train: {language: lora, "
                "connector: false, new_tokens: false}, or take reference 'stored'"
            )
        return self


def tilings_of(stages: Sequence[StageSpec]) -> list[TilingSpec]:
    """The tilings that stages name for themselves."""
    return [stage.tiling for stage in stages if stage.tiling is not None]


class ParallelSpec(Spec):
    """Over how many processes a run is spread, and how."""

    engine: Literal["single", "ddp", "fsdp2", "deepspeed"] = "single"
    """`single`: one process; over the processes that torchrun started `ddp`: each holds the whole
    model; `fsdp2`: parameters, gradients and moments spread over them; `deepspeed`: ZeRO."""

    zero: Literal[1, 2, 3] = 3
    """What `deepspeed` spreads: moments (1), gradients too (2), parameters too (3)."""

    offload: Literal["none", "cpu", "nvme"] = "none"
    """Where `fsdp2` and `deepspeed` keep what is not in use: parameters and moments (with `zero` 1
    and 2: moments); `nvme` needs `deepspeed` with `zero` 3, and `nvme`."""

    nvme: Path | None = None
    """Folder on a fast disk, for offload `nvme`."""

    deepspeed: dict[str, Any] = {}
    """Further keys of DeepSpeed's own configuration, merged over those made from this recipe."""

    timeout_minutes: PositiveFloat = 30.0
    """How long a rank waits for the others before the run is given up."""

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        if self.offload != "none" and self.engine in ("single", "ddp"):
            raise ValueError(
                f"parallel.offload is '{self.offload}', which engine '{self.engine}' cannot do; "
                "use engine fsdp2 or deepspeed"
            )
        if self.offload == "nvme":
            if self.engine != "deepspeed" or self.zero != 3:
                raise ValueError("parallel.offload 'nvme' needs engine deepspeed with zero 3")
            if self.nvme is None:
                raise ValueError("parallel.offload 'nvme' needs parallel.nvme, a folder")
        return self

    @model_validator(mode="after")
    def _leaves_ours_alone(self) -> Self:
        taken = sorted(OWN_KEYS & set(self.deepspeed))
        if taken:
            raise ValueError(
                f"parallel.deepspeed: '{taken[0]}' follows from the rest of the recipe (batches, "
                "stages, clipping, precision); remove it"
            )
        return self


class RunSpec(Spec):
    """Where a run writes, what it logs, and how it computes."""

    folder: Path
    """Folder that receives everything the run writes."""

    start: Path | None = None
    """A model folder, or the folder of a finished run, whose weights and tokenizer the run begins
    with; `model` must describe the same architecture. As `model` says when omitted."""

    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, data order and dropout."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast to bfloat16; weights that train stay in float32."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""

    tower_tiles: PositiveInt | None = None
    """Most tiles that go through a tower at once; more go in chunks, which a tower that trains
    computes again in the backward pass. All at once when null."""

    log_every: PositiveInt = 10
    """Steps between two entries in metrics.jsonl."""

    evaluate_every: PositiveInt | None = None
    """Steps between two measurements of held-out loss and accuracy; the end always has one."""

    evaluate_samples: PositiveInt | None = 512
    """Samples measured of each held-out set; null for all."""

    best: str | None = None
    """The held-out set whose loss chooses the best checkpoint; the first one when omitted."""

    sample_every: PositiveInt | None = None
    """Steps between two rounds of sample predictions on held-out data."""

    samples: PositiveInt = 4
    """Predictions per round of samples."""

    checkpoint_every: PositiveInt | None = None
    """Steps between two checkpoints; the end of the run always has one."""

    keep: PositiveInt = 2
    """Checkpoints kept, beside the best one."""

    save_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the weights in the final model folder."""

    tensorboard: bool = True
    """Write TensorBoard files beside metrics.jsonl."""

    wandb: bool = False
    """Report to Weights & Biases too (needs the wandb package)."""
