"""The compiled kernel for float32 on a CPU: attention over intervals of sorted keys.

``native_c`` needs no memory but inputs, outputs and a scratch area per thread, and computes hardly
more than the visible pairs. Where it cannot be compiled, other kernels serve.

Shape suffixes: B batch, H heads, Hk key heads, Q queries, K keys, D head width, N queries that are
no padding.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from triptych.attention.intervals import BLOCK, TILE, Intervals
from triptych.attention.kernels.compiler import load_library
from triptych.attention.kernels.memory import dense_rows, make_rows
from triptych.attention.order import Ints


class _Rows(ctypes.Structure):
    """A tensor (B, H, S, D) and its strides."""

    _fields_ = [(name, ctypes.c_int64) for name in ("data", "batch", "head", "token")]


_TENSORS = ("query", "key", "value", "out", "grad_query", "grad_key", "grad_value", "grad_out")
_POINTERS = ("sums", "scratch", "blocks", "queries", "tiles", "keys", "row_blocks")
_SIZES = (
    "batch", "heads", "key_heads", "grad_heads", "width", "query_count", "block_count",
    "scratch_size",
)  # fmt: skip


class _Job(ctypes.Structure):
    """What ``native_c`` calls a Job."""

    _fields_ = [
        *((name, _Rows) for name in _TENSORS),
        *((name, ctypes.c_int64) for name in (*_POINTERS, *_SIZES)),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    source = Path(__file__).with_name("native_c")
    library = load_library(source, BLOCK=BLOCK, TILE=TILE)
    if library is not None:
        library.scratch_size.restype = ctypes.c_int64
        library.scratch_size.argtypes = [ctypes.c_int64, ctypes.c_int, ctypes.c_int]
        for work in (library.forward, library.backward):
            work.restype, work.argtypes = None, [ctypes.POINTER(_Job)]
    return library


def has_native() -> bool:
    """Whether the kernel can be had; the first call may compile it, in a second or two."""
    return _library() is not None


def native_attention(
    query: Tensor, key: Tensor, value: Tensor, intervals: Intervals, scale: float
) -> Tensor:
    """Attention of a batch by its intervals, where ``has_native``.

    Args:
        query: float32 (B, H, Q, D) on the CPU, the last Q of the K tokens.
        key: (B, Hk, K, D), where Hk divides H.
        value: (B, Hk, K, D).
        intervals: of the batch, see ``plan_intervals``.
        scale: of the scores.

    Returns:
        (B, H, Q, D); 0 where a query is padding.
    """
    return cast(Tensor, _Native.apply(query, key, value, intervals, scale))


class _Context(FunctionCtx):
    """What is kept for the gradient."""

    saved_tensors: tuple[Tensor, ...]
    intervals: Intervals
    scale: float


class _Native(torch.autograd.Function):
    """Keeps inputs, output and softmax sums; weights are worked out again."""

    @staticmethod
    def forward(
        ctx: _Context,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        intervals: Intervals,
        scale: float,
    ) -> Tensor:
        query, key, value = (dense_rows(one) for one in (query, key, value))
        out = make_rows(query, filled=intervals.filled)
        sums = query.new_empty(2, query.shape[1], len(intervals.queries))
        tensors = {"query": query, "key": key, "value": value, "out": out}
        _run(tensors, sums, intervals, scale)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.intervals, ctx.scale = intervals, scale
        return out

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, sums = ctx.saved_tensors
        heads = _grad_heads(query, key)
        tensors = {
            "query": query,
            "key": key,
            "value": value,
            "out": out,
            "grad_query": make_rows(query, filled=ctx.intervals.filled),
            "grad_key": make_rows(key, heads=heads),
            "grad_value": make_rows(value, heads=heads),
            "grad_out": dense_rows(grads[0]),
        }
        _run(tensors, sums, ctx.intervals, ctx.scale, backward=True)
        grad_key, grad_value = (
            _fold(tensors[name], key.shape[1]) for name in ("grad_key", "grad_value")
        )
        return tensors["grad_query"], grad_key, grad_value, None, None


def _grad_heads(query: Tensor, key: Tensor) -> int:
    """Heads that gradients of keys and values have: each is one thread's work.

    Those of a shared key head are kept apart, and added up later, where threads would idle.
    """
    tasks, threads = len(key) * key.shape[1], torch.get_num_threads()
    even = tasks % threads == 0 or tasks >= 4 * threads
    return key.shape[1] if even else query.shape[1]


def _fold(grad: Tensor, heads: int) -> Tensor:
    return grad if grad.shape[1] == heads else grad.unflatten(1, (heads, -1)).sum(2)


def _run(
    tensors: dict[str, Tensor],
    sums: Tensor,
    intervals: Intervals,
    scale: float,
    *,
    backward: bool = False,
) -> None:
    """Fill a job and let the kernel work on it."""
    library = _library()
    if library is None:
        raise RuntimeError("the compiled attention kernel cannot be had; ask has_native first")
    query, key = tensors["query"], tensors["key"]
    grad_heads = tensors["grad_key"].shape[1] if backward else key.shape[1]
    tasks = len(query) * grad_heads if backward else len(intervals.blocks) * query.shape[1]
    threads = max(1, min(torch.get_num_threads(), tasks))
    size = library.scratch_size(query.shape[-1], backward, intervals.gathers)
    scratch = query.new_empty(threads, size)
    job = _Job(
        **{name: _Rows(one.data_ptr(), *one.stride()[:3]) for name, one in tensors.items()},
        sums=sums.data_ptr(),
        scratch=scratch.data_ptr(),
        blocks=_address(intervals.blocks),
        queries=_address(intervals.queries),
        tiles=_address(intervals.tiles),
        keys=_address(intervals.keys),
        row_blocks=_address(intervals.row_blocks),
        batch=len(query),
        heads=query.shape[1],
        key_heads=key.shape[1],
        grad_heads=grad_heads,
        width=query.shape[-1],
        query_count=len(intervals.queries),
        block_count=len(intervals.blocks),
        scratch_size=size,
        scale=scale,
        threads=threads,
    )
    work = library.backward if backward else library.forward
    work(ctypes.byref(job))


def _address(array: Ints) -> int:
    return array.ctypes.data
