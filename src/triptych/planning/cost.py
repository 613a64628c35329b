"""What a training step costs, and how that grows with layers and rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args


@dataclass(frozen=True)
class Held:
    """Bytes that a step holds at one moment beside weights and optimizer states.

    Attributes:
        activations: what the forward pass keeps for the backward pass, and what operators hold.
        logits: scores over the vocabulary, in every precision they exist in.
        copies: weights that autocast has brought to half precision.
        gradients: those of parameters.
    """

    activations: int = 0
    logits: int = 0
    copies: int = 0
    gradients: int = 0

    @property
    def fleeting(self) -> int:
        """All but the gradients, which stay until the optimizer has used them."""
        return self.activations + self.logits + self.copies


Phase: TypeAlias = Literal["vision", "stack", "head", "loss", "layers", "tail"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class StepCost:
    """What a step costs.

    Attributes:
        peaks: when most is held beside gradients, in each phase of the step: before the decoder
            layers, in their forward pass, behind them; then backward, in the same places. Within a
            phase it is the same moment whatever the number of layers.
        flops: of forward and backward pass, without what gradient checkpointing computes again.
        bottom: when most is held in the backward pass of the decoder layer that comes last.
    """

    peaks: Mapping[Phase, Held]
    flops: int
    bottom: Held = Held()


def extend(one: StepCost, two: StepCost, times: float) -> StepCost:
    """The cost ``times`` as far from ``one`` as ``two`` is: costs grow evenly."""
    peaks = {phase: _line(one.peaks[phase], two.peaks[phase], times) for phase in PHASES}
    flops = round(one.flops + times * (two.flops - one.flops))
    return StepCost(peaks, flops, _line(one.bottom, two.bottom, times))


def _line(one: Held, two: Held, times: float) -> Held:
    first, second = vars(one), vars(two)
    ahead = {name: first[name] + times * (second[name] - first[name]) for name in first}
    return Held(**{name: max(0, round(value)) for name, value in ahead.items()})


def deepen(base: StepCost, deeper: StepCost, wide: StepCost, ratio: float) -> StepCost:
    """``wide``, with the layers that ``deeper`` has beyond ``base``.

    Args:
        base: some rows.
        deeper: as many rows, more layers.
        wide: ``ratio`` times the rows, as many layers as ``base``. What layers keep for the
            backward pass grows with the rows; weights and gradients do not.
        ratio: of the rows.
    """
    scale = {"activations": ratio, "logits": ratio, "copies": 1.0, "gradients": 1.0}
    peaks = {}
    for phase in PHASES:
        one, two = vars(base.peaks[phase]), vars(deeper.peaks[phase])
        start = vars(wide.peaks[phase])
        grown = {n: start[n] + scale[n] * (two[n] - one[n]) for n in scale}
        peaks[phase] = Held(**{name: max(0, round(value)) for name, value in grown.items()})
    return StepCost(peaks, wide.flops + round(ratio * (deeper.flops - base.flops)))
