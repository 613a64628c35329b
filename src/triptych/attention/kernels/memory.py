"""The memory layout that the kernels for a CPU read and write.

Shape suffixes: B batch, H heads, S sequence, D head width.
"""

from torch import Tensor


def dense_rows(tensor: Tensor) -> Tensor:
    """The kernels take any strides but in the last dimension."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def make_rows(like: Tensor, *, heads: int | None = None, filled: bool = False) -> Tensor:
    """A tensor (B, H, S, D) in memory (B, S, H, D); 0 unless all of it will be ``filled``."""
    batch, own, length, width = like.shape
    make = like.new_empty if filled else like.new_zeros
    return make((batch, length, heads or own, width)).transpose(1, 2)
