"""The state of every random generator of a process, as tensors."""

import math
import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int, stage: int, rank: int) -> None:
    """Seed torch (every device), numpy and python for one stage on one rank."""
    mixed = int(np.random.SeedSequence([seed, stage, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def capture() -> dict[str, Tensor]:
    """Copy the generators' states into tensors on the CPU."""
    version, internal, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    words = legacy["state"]
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *internal], dtype=torch.int64),
        "python_gauss": torch.tensor(math.nan if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*words["key"].tolist(), words["pos"], legacy["has_gauss"]]),
        "numpy_gauss": torch.tensor(legacy["gauss"], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: Mapping[str, Tensor]) -> None:
    """Put the generators back into the states that ``capture`` copied."""
    version, *internal = state["python"].tolist()
    gauss = float(state["python_gauss"])
    random.setstate((version, tuple(internal), None if math.isnan(gauss) else gauss))
    *keys, position, has_gauss = state["numpy"].tolist()
    words = np.array(keys, dtype=np.uint32)
    np.random.set_state(("MT19937", words, position, has_gauss, float(state["numpy_gauss"])))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
