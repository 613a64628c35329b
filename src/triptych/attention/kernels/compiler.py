"""Compiles C files of this package against the libraries that PyTorch has loaded.

Linux and GCC only: elsewhere PyTorch brings another thread pool, or hides its BLAS.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

_log = logging.getLogger(__name__)
_SWITCH = "TRIPTYCH_NATIVE"
_MATHS = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
_FLAGS = ("-O3", "-march=native", *_MATHS, "-fopenmp", "-fPIC", "-shared")


class NoCompilerError(Exception):
    """The library cannot be made here; the message says why."""


@cache
def load_library(source: Path, **macros: int) -> ctypes.CDLL | None:
    """The library of a folder of C files, made when no earlier run has; None where it cannot be.

    ``TRIPTYCH_NATIVE=0`` switches it off. On Linux the reason is logged as a warning otherwise.
    """
    if os.environ.get(_SWITCH) == "0" or sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(str(build_library(source, _cache_folder(), **macros)))
    except (NoCompilerError, OSError) as error:
        _log.warning("attention runs through PyTorch's operators, which is slower: %s", error)
        return None


def build_library(source: Path, folder: Path, **macros: int) -> Path:
    """Compile a folder of C files, unless the library is there already.

    Args:
        source: the folder of C files and their headers.
        folder: where libraries are kept, each named by what it was made of and for.
        macros: names that the C files expect to be defined.

    Raises:
        NoCompilerError: there is no compiler, or it fails.
    """
    name = os.environ.get("CC") or "gcc"
    compiler = shutil.which(name)
    if compiler is None:
        raise NoCompilerError(f"there is no C compiler {name!r}; install gcc")
    options = [*_FLAGS, *(f"-D{macro}={number}" for macro, number in macros.items())]
    target = folder / f"{source.name}-{_fingerprint(source, compiler, *options)}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as room:
        made = Path(room) / target.name
        files = map(str, sorted(source.glob("*.c")))
        command = [compiler, *options, *files, "-o", str(made), *_libraries()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoCompilerError(f"{compiler} cannot make it: {done.stderr.strip()[-500:]}")
        made.replace(target)
    return target


def _libraries() -> Iterator[str]:
    """Those that PyTorch has loaded: its thread pool by file, so that there is no second one."""
    folder = Path(torch.__file__).parent / "lib"
    yield "-Wl,--no-undefined,--as-needed"
    yield from map(str, sorted(folder.glob("libgomp*.so*")))
    yield from (f"-L{folder}", "-ltorch_cpu", "-lm")


def _fingerprint(source: Path, *words: str) -> str:
    """Of the sources, the words, PyTorch and the processor, whose own instructions are used."""
    files = [path.read_text() for path in sorted(source.glob("*.[ch]"))]
    processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    kind = [line for line in processor if line.startswith(("flags", "model"))]
    made_for = "\0".join([*files, *words, torch.__version__, *kind])
    return hashlib.sha256(made_for.encode()).hexdigest()[:16]


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "triptych" / "kernels"
