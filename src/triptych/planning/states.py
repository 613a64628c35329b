"""Memory of one process: weights, gradients and moments as each engine holds them.

AdamW keeps two moments of four bytes for each number that trains; weights that train, and their
gradients, have four bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch import nn

from triptych.language.layers import decoder_layers
from triptych.language.quantize import BnbQuantize, packed_bytes, quantizable
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.planning.cost import Held, StepCost
from triptych.training.stages import ParallelSpec

EngineName: TypeAlias = Literal[
    "single",
    "ddp",
    "fsdp2",
    "fsdp2+offload",
    "zero1",
    "zero2",
    "zero3",
    "zero1+offload",
    "zero2+offload",
    "zero3+offload",
]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
_FLOAT = 4
_HALF = 2
_MOMENTS = 8
# DeepSpeed's own defaults, in numbers: gradients reduced at a time, parameters gathered at a time.
_BUCKET = 5 * 10**8
_LIVE = 10**9


@dataclass(frozen=True)
class Spread:
    """What an engine divides by the number of ranks, and what waits on the CPU."""

    weights: bool = False
    gradients: bool = False
    moments: bool = False
    offload: bool = False


def spread_of(engine: EngineName) -> Spread:
    """How an engine spreads what a rank holds."""
    name, _, rest = engine.partition("+")
    return Spread(
        weights=name in ("fsdp2", "zero3"),
        gradients=name in ("fsdp2", "zero2", "zero3"),
        moments=name not in ("single", "ddp"),
        offload=bool(rest),
    )


@dataclass(frozen=True)
class Share:
    """Bytes of weights, how many numbers of them train, and how many there are."""

    weights: int = 0
    trained: int = 0
    parameters: int = 0

    def __add__(self, other: "Share") -> "Share":
        return Share(
            self.weights + other.weights,
            self.trained + other.trained,
            self.parameters + other.parameters,
        )


@dataclass(frozen=True)
class Inventory:
    """What a stage holds throughout.

    Attributes:
        layer: the largest decoder layer.
        layers: all decoder layers.
        rest: everything else.
        buffers: bytes of tensors that are not parameters, and of the largest quantised matrix,
            which is unpacked while it computes.
    """

    layer: Share
    layers: Share
    rest: Share
    buffers: int

    @property
    def all(self) -> Share:
        """The whole model."""
        return self.layers + self.rest


@dataclass(frozen=True)
class Memory:
    """Bytes in one process when it holds the most.

    Attributes:
        weights: parameters.
        gradients: all of them, as they are when the optimizer takes its step.
        optimizer: moments.
        activations: what else is held at the peak. Gradients come while activations go, so where
            one micro-batch makes a step these are less than all that the forward pass keeps.
        logits: scores over the vocabulary, if they are there at the peak.
        buffers: tensors of the model that are not parameters, and what the engine gathers, reduces
            and sends.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


def take_stock(
    model: TriptychForConditionalGeneration, quantize: BnbQuantize | None = None
) -> Inventory:
    """Weigh a model that a stage has begun with.

    Args:
        model: the model.
        quantize: how a run would hold the frozen linear layers of its language model.
    """
    packed, unpacked = {}, 0
    if quantize is not None:
        for _, linear in quantizable(model.language_model):
            if not linear.weight.requires_grad:  # those that train are LoRA's
                packed[id(linear.weight)] = packed_bytes(quantize, linear)
                unpacked = max(unpacked, _HALF * linear.weight.numel())
    layers = [_weigh(layer.parameters(), packed) for layer in decoder_layers(model.language_model)]
    inside = {id(p) for p in decoder_layers(model.language_model).parameters()}
    rest = _weigh((p for p in model.parameters() if id(p) not in inside), packed)
    return Inventory(
        layer=max(layers, key=lambda share: share.weights),
        layers=sum(layers, Share()),
        rest=rest,
        buffers=unpacked + sum(one.untyped_storage().nbytes() for one in model.buffers()),
    )


def _weigh(parameters: Iterable[nn.Parameter], packed: Mapping[int, int]) -> Share:
    total = Share()
    for parameter in parameters:
        trained = parameter.numel() if parameter.requires_grad else 0
        size = packed.get(id(parameter), parameter.nbytes)
        total += Share(size, trained, parameter.numel())
    return total


def engine_name(parallel: ParallelSpec, gpus: int) -> EngineName:
    """The engine that a recipe runs with on so many GPUs.

    ``triptych train --processes`` takes ddp where a recipe names no engine of several processes.
    """
    if parallel.engine == "single":
        return "single" if gpus == 1 else "ddp"
    name = f"zero{parallel.zero}" if parallel.engine == "deepspeed" else parallel.engine
    away = "" if parallel.offload == "none" else "+offload"
    return next(engine for engine in ENGINES if engine == name + away)


def memory(
    stock: Inventory,
    cost: StepCost,
    engine: EngineName,
    gpus: int,
    *,
    half: bool,
    accumulates: bool,
) -> Memory:
    """Memory of one process.

    Args:
        stock: weights of the stage.
        cost: of a micro-batch.
        engine: the engine.
        gpus: processes, each with a GPU of its own.
        half: bfloat16 autocast.
        accumulates: several micro-batches of a process make a step, so that gradients are there
            from the beginning.
    """
    whole, spread = stock.all, spread_of(engine)
    gradients = _FLOAT * whole.trained // (gpus if spread.gradients else 1)
    arrive = gpus if spread.gradients else 1
    copies = engine.startswith("fsdp2")
    peak, extra = _peak(stock, cost, gradients, arrive, copies=not copies, accumulates=accumulates)
    logits = min(peak.logits, extra)
    moments = _MOMENTS + (_FLOAT if engine.startswith("zero") else 0)  # DeepSpeed keeps masters
    away, shards = spread.offload, spread.weights and spread.offload
    return Memory(
        weights=0 if shards else whole.weights // (gpus if spread.weights else 1),
        gradients=0 if away and spread.gradients else gradients,
        optimizer=0 if away else moments * whole.trained // (gpus if spread.moments else 1),
        activations=extra - logits,
        logits=logits,
        buffers=stock.buffers + _sent(stock, engine, half=half),
    )


def _sent(stock: Inventory, engine: EngineName, *, half: bool) -> int:
    """What an engine gathers, reduces and sends."""
    whole = stock.all
    if engine == "single":
        return 0
    if engine == "ddp":
        return _FLOAT * whole.trained  # buckets in which gradients are sent
    if engine.startswith("fsdp2"):
        return _gathered(stock, half=half)
    bucket = _FLOAT * min(_BUCKET, whole.trained)
    if not engine.startswith("zero3"):
        return bucket
    return bucket + whole.weights * min(_LIVE, whole.parameters) // whole.parameters


def _gathered(stock: Inventory, *, half: bool) -> int:
    """What fsdp2 gathers and reduces.

    Two decoder layers are there at a time, one of them ahead, in half precision where that is
    asked for; everything else is there from the first use on. Gradients are whole, in float32,
    until they are reduced.
    """
    layer = stock.layer.weights
    if half and stock.layer.trained:
        layer //= 2
    return 2 * layer + stock.rest.weights + _FLOAT * (2 * stock.layer.trained + stock.rest.trained)


def _peak(
    stock: Inventory,
    cost: StepCost,
    gradients: int,
    ranks: int,
    *,
    copies: bool,
    accumulates: bool,
) -> tuple[Held, int]:
    """The moment when most is held, and how much that is beside weights, moments and gradients."""
    candidates = []
    below = _FLOAT * (stock.layers.trained - stock.layer.trained)
    for held, more in (*((held, 0) for held in cost.peaks.values()), (cost.bottom, below)):
        arrived = gradients if accumulates else min(gradients, (held.gradients + more) // ranks)
        beside = held.fleeting - (0 if copies else held.copies)
        candidates.append((held, max(0, beside + arrived - gradients)))
    last = cost.peaks["tail"]
    candidates.append((last, last.fleeting))
    return max(candidates, key=lambda candidate: candidate[1])
