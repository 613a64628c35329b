import hashlib
import io
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from triptych.errors import DataError
from triptych.synth.packages import Package, Shelf, default_cache

NPM = Package("npm", "@some/icons", "1.2.3", "", "MIT", 10)
DEB = Package("deb", "some-data", "4:1.0-2", "", "GPL-2", 10)
PYPI = Package("pypi", "some-data", "1.0", "", "MIT", 10)


def pinned(package: Package, archive: Path) -> Package:
    return replace(package, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())


def tgz(path: Path, names: tuple[str, ...] = ("package/icons.json",)) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    return path


def client(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program ``name`` in front of all others."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_an_archive_in_the_cache_is_used_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    package = pinned(NPM, tgz(tmp_path / "some-icons-1.2.3.tgz"))
    shelf = Shelf(tmp_path, {})
    assert (shelf.open(package) / "package/icons.json").read_text() == "{}"
    (tmp_path / "some-icons-1.2.3.tgz").unlink()
    assert shelf.open(package).is_dir(), "what was unpacked is enough"


def test_a_client_is_called_once_and_its_archive_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pinned(NPM, tgz(tmp_path / "made.tgz"))
    script = f'echo "$@" >> {tmp_path}/calls; cp {tmp_path}/made.tgz some-icons-1.2.3.tgz'
    client(tmp_path / "bin", "npm", script, monkeypatch)
    shelf = Shelf(tmp_path / "cache", {})
    for _ in range(2):
        assert (shelf.open(package) / "package/icons.json").exists()
        assert shelf.fetch(package).name == "some-icons-1.2.3.tgz"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["pack --silent --ignore-scripts @some/icons@1.2.3"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        "some-icons-1.2.3.tgz",
        "unpacked",
    ]


@pytest.mark.parametrize(
    ("package", "name"), [(NPM, "npm"), (DEB, "apt-get")], ids=["npm", "Debian"]
)
def test_a_missing_client_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Package, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"{name} is not installed") as caught:
        Shelf(tmp_path / "cache", {}).open(package)
    assert f"--source {package.name}=FOLDER" in str(caught.value)


def test_a_client_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path / "bin", "apt-get", "echo 'E: Version not found' >&2; exit 100", monkeypatch)
    with pytest.raises(DataError, match=r"some-data 4:1.0-2: apt-get failed \(E: Version not"):
        Shelf(tmp_path / "cache", {}).open(DEB)
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_archive_is_refused(tmp_path: Path) -> None:
    tgz(tmp_path / "some-icons-1.2.3.tgz")
    with pytest.raises(DataError, match=r"has SHA-256 .* expected 0000"):
        Shelf(tmp_path, {}).open(replace(NPM, sha256="0000"))


def test_a_damaged_archive_leaves_nothing_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "some-icons-1.2.3.tgz"
    archive.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        Shelf(tmp_path, {}).open(pinned(NPM, archive))
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_an_archive_that_writes_elsewhere_is_refused(tmp_path: Path) -> None:
    archive = tgz(tmp_path / "some-icons-1.2.3.tgz", ("../../outside.json",))
    with pytest.raises(DataError, match="cannot be unpacked"):
        Shelf(tmp_path / ".", {}).open(pinned(NPM, archive))
    assert not (tmp_path / "outside.json").exists()


def test_a_wheel_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "some_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("some_data/x.txt", "x")
    assert (Shelf(tmp_path, {}).open(pinned(PYPI, archive)) / "some_data/x.txt").exists()


def test_a_debian_archive_keeps_the_name_of_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "some-data_4%3a1.0-2_all.deb"
    archive.write_bytes(b"deb")
    client(tmp_path / "bin", "dpkg-deb", 'echo "$1" > "$3/said"', monkeypatch)
    folder = Shelf(tmp_path, {}).open(pinned(DEB, archive))
    assert (folder / "said").read_text() == "--extract\n"


def test_a_given_folder_stands_for_the_package(tmp_path: Path) -> None:
    assert Shelf(tmp_path / "cache", {"@some/icons": tmp_path}).open(NPM) == tmp_path
    with pytest.raises(DataError, match="given for the package @some/icons"):
        Shelf(tmp_path, {"@some/icons": tmp_path / "gone"}).open(NPM)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "triptych" / "packages"
