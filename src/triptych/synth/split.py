"""Which things are held out: decided by their own name, so that it never depends on the others."""

import hashlib


def held_out(key: str, share: float) -> bool:
    """Whether the thing called ``key`` is held out, as about ``share`` of all things are.

    The same name is held out in every data set and under every seed, and more material changes
    nothing for the old. A concept, a file or a map is split by its own name, never by that of a
    picture made of it.
    """
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
