"""What becomes of C files, with a compiler and without."""

import ctypes
import logging
import platform
import shutil
import sys
from pathlib import Path

import pytest

from triptych.attention.intervals import BLOCK, TILE
from triptych.attention.kernels import native
from triptych.attention.kernels.compiler import NoCompilerError, build_library, load_library

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "twice"
    folder.mkdir()
    (folder / "twice.h").write_text("int twice(int x);\n")
    (folder / "twice.c").write_text('#include "twice.h"\nint twice(int x) { return FACTOR * x; }\n')
    return folder


@needs_gcc
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="elsewhere it may not be had"
)
def test_the_kernel_is_made_where_there_is_gcc(tmp_path: Path) -> None:
    """Else a mistake in its C would only skip its tests."""
    source = Path(native.__file__).with_name("native_c")
    assert build_library(source, tmp_path, BLOCK=BLOCK, TILE=TILE).is_file()


@needs_gcc
def test_a_library_is_made_once_for_what_it_is_made_of(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    first = build_library(source, folder, FACTOR=2)
    made = first.stat().st_mtime_ns
    assert ctypes.CDLL(str(first)).twice(21) == 42
    assert build_library(source, folder, FACTOR=2).stat().st_mtime_ns == made
    assert ctypes.CDLL(str(build_library(source, folder, FACTOR=3))).twice(21) == 63
    (source / "twice.h").write_text("extern int twice(int x);\n")
    assert build_library(source, folder, FACTOR=2) != first
    assert len(list(folder.iterdir())) == 3


@needs_gcc
def test_what_the_compiler_says_is_passed_on(source: Path, tmp_path: Path) -> None:
    (source / "twice.c").write_text("int twice(int x) { return missing(x); }\n")
    with pytest.raises(NoCompilerError, match="missing"):
        build_library(source, tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_without_a_compiler_the_reason_is_logged(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert load_library(source, FACTOR=2) is None
    assert "there is no C compiler 'no-such-compiler'; install gcc" in caplog.text


def test_it_can_be_switched_off(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRIPTYCH_NATIVE", "0")
    assert load_library(source, FACTOR=2) is None
    assert not caplog.text
