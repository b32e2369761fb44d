"""Takes files out of .debs and wheels, as much as is needed of them, without installing anything."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from edgellm.errors import DeviceError, MissingDependencyError

_DOCUMENTS = ("usr/share/",)


def unpack_deb(path: Path, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Unpack a .deb's files into `folder`, but for documents and what `wanted` refuses.

    Args:
        path: of the .deb; its hash was checked.
        folder: the root they go under.
        wanted: told each path, relative to the root.

    Raises:
        MissingDependencyError: the machine has no dpkg-deb.
        DeviceError: the .deb can't be read.

    """
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise MissingDependencyError("Unpacking .debs needs dpkg-deb.", hint="Install it with: apt-get install dpkg")
    with subprocess.Popen([tool, "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    name = _inside(path, member.name)
                    if not name.startswith(_DOCUMENTS) and wanted(name):
                        _extract(archive, member, folder / name)
        except (tarfile.TarError, OSError) as error:
            process.kill()
            raise DeviceError(f"{path.name} can't be unpacked: {error}.") from None
    if process.returncode:
        raise DeviceError(f"{path.name} can't be unpacked: dpkg-deb ended with code {process.returncode}.")


def unpack_wheel(path: Path, folder: Path) -> None:
    """Unpack a wheel as pip would into a folder on the module path; scripts and headers are left out.

    Raises:
        DeviceError: it can't be read, or names a file outside the folder.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not _inside(path, name).partition("/")[0].endswith(".data"):
                    archive.extract(name, folder)
    except (zipfile.BadZipFile, OSError) as error:
        raise DeviceError(f"{path.name} can't be unpacked: {error}.") from None


def _inside(path: Path, name: str) -> str:
    """Return a member's path relative to the root.

    Raises:
        DeviceError: it lies outside.

    """
    member = PurePosixPath(name)
    if ".." in member.parts or member.is_absolute():
        raise DeviceError(f"{path.name} names a file outside its folder: {name!r}.")
    return str(member)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one file or link; owners don't matter. By hand, as Debian's Python 3.11 has no extraction filters."""
    if not (member.isfile() or member.issym()):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
        return
    content = archive.extractfile(member)
    assert content is not None
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)
    target.chmod(0o755 if member.mode & 0o100 else 0o644)
