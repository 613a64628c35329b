"""Follows what one training step would hold in memory and compute, on tensors without memory.

A step on meta tensors runs every operator for its shapes alone. The recorder counts the bytes of
each storage from the operator that makes it until the last tensor that refers to it is gone: the
very lifetimes of the real step, whatever the model.

Shape suffixes: B batch, S sequence, K vocabulary.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from triptych.planning.cost import PHASES, Held, Phase, StepCost

Kind: TypeAlias = Literal["activations", "logits", "copies", "gradients"]

_ATEN = torch.ops.aten
_READS_MASKS = (_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_)
_MOVES = (_ATEN._to_copy, _ATEN.copy_)
_FORMULAS = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: (_ATEN._scaled_dot_product_flash_attention),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        _ATEN._scaled_dot_product_flash_attention_backward
    ),
}


class StepRecorder(TorchDispatchMode):
    """Records the operators of a step.

    Tensors on the CPU may take part: they are small, hold ids and masks, and are read for their
    values. Where transformers asks whether a mask on the device is true everywhere, which it does
    to leave out masks of padding, the answer is yes: rows of one length are planned.

    Args:
        known: parameters and buffers, which are not counted.
        vocabulary: K, by which logits are told from activations.
    """

    def __init__(self, known: Iterable[Tensor], vocabulary: int) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._blocks: dict[int, tuple[weakref.ref[Any], int, Kind]] = {}
        self._known = [tensor.untyped_storage() for tensor in known]
        self._ignored = {id(storage) for storage in self._known}
        self._now: dict[Kind, int] = dict.fromkeys(
            ("activations", "logits", "copies", "gradients"), 0
        )
        self._in_backward = False
        self._phase: Phase = "vision"
        self._peaks: dict[Phase, Held] = dict.fromkeys(PHASES, Held())
        self._flops = 0

    @property
    def cost(self) -> StepCost:
        """What was recorded."""
        return StepCost(dict(self._peaks), self._flops)

    def begin_backward(self) -> None:
        """Say that the forward pass has ended; operators with autograd are then repetitions."""
        self._in_backward = True
        self.enter("loss")

    def enter(self, phase: Phase) -> None:
        """Say that a phase begins; phases come in their order, and never again."""
        if PHASES.index(phase) > PHASES.index(self._phase):
            self._phase = phase
            self._peaks[phase] = self._held

    def label(self, tensor: Tensor, kind: Kind) -> None:
        """Count the storage of ``tensor`` as ``kind`` from now on."""
        key = id(tensor.untyped_storage())
        if key in self._blocks:
            reference, size, old = self._blocks[key]
            self._blocks[key] = (reference, size, kind)
            self._now[old] -= size
            self._now[kind] += size

    def accumulated(self, parameter: Tensor) -> None:
        """Note that ``parameter`` has its gradient."""
        if parameter.grad is not None:
            self.label(parameter.grad, "gradients")

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that no operator of the step has made, such as its inputs."""
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        named: dict[str, Any] = dict(kwargs or {})
        packet = func.overloadpacket
        if packet is _ATEN._local_scalar_dense and args[0].is_meta and args[0].dtype == torch.bool:
            return True
        args, named = _on_one_device(packet, args, named)
        if packet is _ATEN._grouped_mm and args[0].is_meta:
            offsets = named["offs"] if "offs" in named else args[2]
            out: object = _grouped(args[0], args[1], offsets)
            self._count(2 * args[0].numel() * args[1].shape[-1])
        else:
            out = func(*args, **named)
            formula = flop_registry.get(_FORMULAS.get(packet, packet))
            if formula is not None:
                self._count(formula(*args, **named, out_val=out))
        for tensor in _tensors((out,)):
            if tensor.is_meta:
                self._add(tensor)
        return out

    def _count(self, flops: int) -> None:
        if not (self._in_backward and torch.is_grad_enabled()):
            self._flops += flops

    @property
    def _held(self) -> Held:
        return Held(**self._now)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._blocks or key in self._ignored:
            return
        kind: Kind = "activations"
        if tensor.ndim in (2, 3) and tensor.shape[-1] == self._vocabulary:
            kind = "logits"
        size = storage.nbytes()
        self._blocks[key] = (weakref.ref(storage, lambda _: self._free(key)), size, kind)
        self._now[kind] += size
        held = self._held
        if held.fleeting > self._peaks[self._phase].fleeting:
            self._peaks[self._phase] = held

    def _free(self, key: int) -> None:
        _, size, kind = self._blocks.pop(key)
        self._now[kind] -= size


def _grouped(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    """Product of the experts of a mixture, in any of the forms that its backward pass needs."""
    if left.ndim == 2 and right.ndim == 2:
        shape: tuple[int, ...] = (len(offsets), left.shape[0], right.shape[1])
    else:
        shape = (left.shape[0], right.shape[-1])
    return left.new_empty(shape)


def _on_one_device(
    packet: OpOverloadPacket, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Bring tensors on the CPU to the meta device, where an operator has tensors of both."""
    tensors = _tensors((*args, *kwargs.values()))
    if packet in _MOVES or len({tensor.is_meta for tensor in tensors}) < 2:
        return args, kwargs
    if packet in _READS_MASKS:
        chosen: list[Any] = []
        for index in args[1]:
            mask = isinstance(index, Tensor) and not index.is_meta and index.dtype == torch.bool
            chosen += index.nonzero(as_tuple=True) if mask else [index]
        args = (args[0], chosen, *args[2:])
    moved: tuple[tuple[Any, ...], dict[str, Any]] = tree_map(_to_meta, (args, kwargs))
    return moved


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors that an operator takes or gives, which may stand in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _to_meta(value: object) -> object:
    return value.to("meta") if isinstance(value, Tensor) else value
