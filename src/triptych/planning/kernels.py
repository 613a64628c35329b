"""The path that a device would take, for tensors without memory.

Shape suffixes: B batch, H heads, S sequence, D width of a head.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from triptych.planning.recorder import StepRecorder


class DeviceKernels(TorchFunctionMode):
    """Lets meta tensors take the path that a device would take.

    Fused attention keeps no square of scores, and autocast computes matrix products in half
    precision; on meta tensors torch would do neither.

    Args:
        recorder: told which tensors are copies of weights.
        half: whether the step runs under autocast to bfloat16.
        gpu: autocast on a GPU computes layer norms in fp32, on a CPU it does not touch them.
    """

    def __init__(self, recorder: StepRecorder, *, half: bool, gpu: bool) -> None:
        super().__init__()
        self._recorder, self._half, self._gpu = recorder, half, gpu
        self._copies: dict[int, Tensor] | None = {}  # of the forward pass that runs

    def stay_in(self, module: nn.Module) -> list[RemovableHandle]:
        """Be active in ``module`` wherever it is called from, until the handles are removed."""

        def enter(*_: object) -> None:
            self.__enter__()

        def leave(*_: object) -> None:
            self.__exit__(None, None, None)

        return [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, always_call=True),
        ]

    def end_forward(self) -> None:
        """Forget the copies of weights, as autocast does when its context ends."""
        self._copies = None

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        named: dict[str, Any] = dict(kwargs or {})
        if self._half and func in _HALVED and not _has_positions(args):
            args, named = tree_map(self._halve, (args, named))
        elif self._half and self._gpu and func in _WIDENED:
            args, named = tree_map(_widen, (args, named))
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **named)
        if func is torch.tensor:
            # Counts and sizes, which are read for their values.
            named["device"] = "cpu"
        return func(*args, **named)

    def _halve(self, value: object) -> object:
        if not (isinstance(value, Tensor) and value.is_meta and value.dtype == torch.float32):
            return value
        cached = isinstance(value, nn.Parameter) and value.requires_grad
        if not cached:
            return value.to(torch.bfloat16)
        kept = None if self._copies is None else self._copies.get(id(value))
        if kept is None:
            kept = value.to(torch.bfloat16)
            self._recorder.label(kept, "copies")
            if self._copies is not None:
                self._copies[id(value)] = kept
        return kept


_HALVED = {
    F.linear,
    F.conv2d,
    torch.conv2d,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    torch.bmm,
    torch.baddbmm,
    torch.addmm,
    torch.mm,
    F.scaled_dot_product_attention,
}
_WIDENED = {F.layer_norm, F.softmax, torch.softmax, Tensor.softmax}


def _has_positions(args: tuple[Any, ...]) -> bool:
    """Whether a tensor on the CPU takes part: rotary angles, which models keep out of autocast."""
    return any(isinstance(value, Tensor) and not value.is_meta for value in args)


def _widen(value: object) -> object:
    if isinstance(value, Tensor) and value.is_meta and value.dtype == torch.bfloat16:
        return value.float()
    return value


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Fused attention, whose memory is that of its inputs, its output and a row of sums."""
    if not query.is_meta or query.dim() != 4:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if attn_mask is not None:
        attn_mask = attn_mask.to("meta", query.dtype)
    out, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    return cast(Tensor, out)
