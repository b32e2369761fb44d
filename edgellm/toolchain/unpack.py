"""Takes files out of .debs and wheels, as much as is needed of them, without installing anything.

Archives were checked by hash, and are still not trusted with this machine's files: every name is checked, nothing is
written through a link that leads out of the folder, and what can't be unpacked is an error, never left out in silence.
"""

from __future__ import annotations

import posixpath
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from edgellm.errors import DeviceError, MissingDependencyError


def runs(name: str) -> bool:
    """Tell whether a path of a .deb is of what runs: no document or other shared data."""
    return not name.startswith("usr/share/")


def unpack_deb(path: Path, folder: Path, wanted: Callable[[str], bool] = runs) -> None:
    """Unpack a .deb's files into `folder`, but for what `wanted` refuses.

    A hard link becomes a copy. A link to an absolute path becomes one to the same path under `folder`, as this
    machine's own files are not meant.

    Args:
        path: of the .deb; its hash was checked.
        folder: the root they go under.
        wanted: told each path, relative to the root.

    Raises:
        MissingDependencyError: the machine has no dpkg-deb.
        DeviceError: the .deb can't be read, leads outside the folder, or holds something that is no file or link.

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
                    if wanted(name):
                        _extract(path, archive, member, folder, name)
        except (tarfile.TarError, OSError) as error:
            process.kill()
            raise DeviceError(f"{path.name} can't be unpacked: {error}.") from None
    if process.returncode:
        raise DeviceError(f"{path.name} can't be unpacked: dpkg-deb ended with code {process.returncode}.")


def unpack_wheel(path: Path, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Unpack a wheel's modules as pip would into a folder on the module path, but for what `wanted` refuses.

    Of its .data folder those are modules that lie under purelib and platlib; scripts, headers and data are left out.

    Raises:
        DeviceError: it can't be read, leads outside the folder, or holds a link.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = _module(_inside(path, member.filename))
                if name is None or member.is_dir() or not wanted(name):
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise DeviceError(f"{path.name} holds a link, which wheels don't have: {name!r}.")
                target = _place(path, folder, name)
                with archive.open(member) as content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (zipfile.BadZipFile, OSError) as error:
        raise DeviceError(f"{path.name} can't be unpacked: {error}.") from None


def _module(name: str) -> str | None:
    """Return where a wheel's file belongs on the module path, None if it is no module."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    scheme, _, rest = rest.partition("/")
    return rest if scheme in ("purelib", "platlib") else None


def _inside(path: Path, name: str) -> str:
    """Return a member's path relative to the root.

    Raises:
        DeviceError: it lies outside.

    """
    member = PurePosixPath(name)
    if ".." in member.parts or member.is_absolute():
        raise DeviceError(f"{path.name} names a file outside its folder: {name!r}.")
    return str(member)


def _place(path: Path, root: Path, name: str) -> Path:
    """Return where a member is written: its folder is there, and no file or link of its name.

    Raises:
        DeviceError: a link that was unpacked earlier leads it outside.

    """
    target = _folder(path, root, posixpath.dirname(name)) / posixpath.basename(name)
    target.unlink(missing_ok=True)  # or what it links to would be overwritten
    return target


def _folder(path: Path, root: Path, name: str) -> Path:
    """Return a folder under the root, made if need be; raises as `_place`."""
    folder = root / name
    if not _under(folder, root):
        raise DeviceError(f"{path.name} writes through a link that leads outside its folder: {name!r}.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _under(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _extract(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, name: str) -> None:
    """Write one member; owners don't matter. By hand, as Debian's Python 3.11 has no extraction filters."""
    if member.isdir():
        _folder(path, root, name)
    elif member.issym():
        aim = _aim(path, name, member.linkname)
        _place(path, root, name).symlink_to(aim)
    elif member.islnk():
        source = root / _inside(path, member.linkname)
        if not source.is_file() or not _under(source, root):
            raise DeviceError(f"{path.name} links to a file that was not unpacked: {name!r} to {member.linkname!r}.")
        shutil.copy(source, _place(path, root, name))
    elif member.isfile():
        content = archive.extractfile(member)
        assert content is not None
        target = _place(path, root, name)
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)
    else:
        raise DeviceError(f"{path.name} holds something that is no file, folder or link: {name!r}.")


def _aim(path: Path, name: str, aim: str) -> str:
    """Return what a symbolic link says once it is unpacked: an absolute aim becomes one under the root.

    Raises:
        DeviceError: it leads outside.

    """
    here = posixpath.dirname(name)
    if aim.startswith("/"):
        return posixpath.relpath(aim, f"/{here}")
    if ".." in PurePosixPath(posixpath.normpath(posixpath.join(here, aim))).parts:
        raise DeviceError(f"{path.name} links to a file outside its folder: {name!r} to {aim!r}.")
    return aim
