"""Packages for other machines, and of data: which files pip, apt and npm would take, as downloads with hashes.

They are asked, so that their indexes, mirrors, proxies and keys are the machine's own, and no address stands in this
project. Wheels are pinned with hashes in a requirements file, npm's tarballs by who asks; .debs are those of the signed
Debian 12 index.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from edgellm.errors import DeviceError, MissingDependencyError
from edgellm.folders import cache_dir
from edgellm.toolchain.downloads import Download

DEBIAN = "bookworm"
"""The release whose qemu has plugins and whose Python is the one this project runs on."""
GLIBC = (2, 36)
"""The C library of that release: no wheel may want a newer one."""

_RELEASE = f"/^{DEBIAN}(-security|-updates)?$/"
"""As apt takes it, a regular expression. Updates count as well, but not backports: qemu there is one without plugins."""
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_URI = re.compile(r"^'(?P<url>[^']+)' (?P<name>\S+) (?P<bytes>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$")


def wheels(requirements: Path, *, machine: str = "aarch64", python: str = "3.11") -> list[Download]:
    """Return the wheels that a requirements file pins, for a Linux of Debian 12's age.

    Args:
        requirements: every package as `name==version --hash=sha256:...`; dependencies are not followed.
        machine: as `uname -m` says.
        python: version of the interpreter that will import them.

    Raises:
        MissingDependencyError: this Python has no pip.
        DeviceError: pip can't reach its index, or finds no such wheel.

    """
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC[1], 16, -1)] + [f"manylinux2014_{machine}"]
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--require-hashes",
        "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "--target=unused",
        *(f"--platform={tag}" for tag in tags), "--quiet", "--no-input", "--disable-pip-version-check",
        "--report=-", f"--requirement={requirements}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise MissingDependencyError(
            "Finding wheels for another machine needs pip.", hint=f"Install it with: {sys.executable} -m ensurepip"
        )
    if done.returncode:
        raise DeviceError(
            f"pip finds no wheels for {machine} as {requirements.name} pins them: {_last_error(done.stderr)}.",
            hint="See that pip reaches its index ('pip download click' is a quick test), then run it again.",
        )
    pinned = set(_HASH.findall(requirements.read_text(encoding="utf-8")))
    found = [_wheel(item["download_info"]) for item in json.loads(done.stdout)["install"]]
    for download in found:
        if download.sha256 not in pinned:
            raise DeviceError(f"pip offers {download.name} with a hash that {requirements.name} does not pin.")
    return found


def debs(names: Sequence[str], arch: str) -> list[Download]:
    """Return the newest packages of Debian 12 with these names for an architecture; dependencies are not followed.

    apt works in a folder of its own in the cache: no root rights, and the machine's own state stays as it is.

    Args:
        names: of binary packages.
        arch: as Debian says: "arm64", "amd64".

    Raises:
        MissingDependencyError: there is no apt-get, or its sources are not Debian 12's.
        DeviceError: apt can't reach its sources, or finds no such package there.

    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise MissingDependencyError(
            "Finding Debian packages needs apt-get.", hint=f"Use a machine or a container with Debian 12 ({DEBIAN})."
        )
    root = cache_dir() / "apt" / arch
    config = _write_config(root, arch)
    from filelock import FileLock

    with FileLock(root / "edgellm.lock"):
        # Cheap when nothing changed; and a list from last month names files that are gone.
        update = _apt(apt, config, "update", "-qq")
        found = _apt(apt, config, "download", "--print-uris", "-qq", *(f"{name}:{arch}" for name in names))
    if found.returncode:
        raise _no_debs(update.stderr, found.stderr)
    downloads = {d.name.partition("_")[0]: d for line in found.stdout.splitlines() if (d := _deb(line))}
    missing = [name for name in names if name not in downloads]
    if missing:
        raise DeviceError(f"apt gives no signed address for {', '.join(missing)}.")
    return [downloads[name] for name in names]


def npm_tarball(package: str, version: str, *, sha256: str, size: int) -> Download:
    """Return the file of an npm package, which is pinned by its hash; no code of it runs.

    Args:
        package: with its scope, where it has one.
        version: exactly.
        sha256: of the file.
        size: of the file, in bytes.

    Raises:
        MissingDependencyError: there is no npm.
        DeviceError: npm can't reach its registry, or gives no such file.

    """
    file = f"{package.rpartition('/')[2]}-{version}.tgz"
    command = ["npm", "view", f"{package}@{version}", "dist.tarball", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MissingDependencyError(f"{file} comes through npm, which is not installed.") from None
    for address in re.findall(r'"(\S+?)"', done.stdout):
        if address.endswith("/" + file):
            return Download(file, address, sha256, size)
    said = [line.strip() for line in done.stderr.splitlines() if "npm error" in line] or ["it knows no such file"]
    raise DeviceError(
        f"npm gives no address for {file}: {said[0]}.", hint="See that npm reaches its registry, then run it again."
    )


def debian_arch(machine: str) -> str:
    """Return Debian's name for what `uname -m` says."""
    return {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(machine, machine)


def _wheel(info: dict[str, object]) -> Download:
    url = str(info["url"])
    archive = info.get("archive_info")
    hashes = archive.get("hashes", {}) if isinstance(archive, dict) else {}
    name = urllib.parse.unquote(Path(urllib.parse.urlsplit(url).path).name)
    return Download(name, url, str(hashes.get("sha256", "")))


def _deb(line: str) -> Download | None:
    match = _URI.match(line)
    if match is None:
        return None
    return Download(match["name"], match["url"], match["sha256"], int(match["bytes"]))


def _write_config(root: Path, arch: str) -> Path:
    """Write an apt configuration that reads the machine's sources and keys, and keeps everything else in `root`."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    config = root / "apt.conf"
    lines = (
        f'Dir::State "{root}/state";',
        f'Dir::State::status "{root}/status";',
        f'Dir::Cache "{root}/cache";',
        'Dir::Cache::pkgcache "";',
        'Dir::Cache::srcpkgcache "";',
        f'APT::Architecture "{arch}";',
        "#clear APT::Architectures;",
        f'APT::Architectures {{ "{arch}"; }};',
        f'APT::Default-Release "{_RELEASE}";',
        # Commands that the machine runs after an update are about its own lists, and may want root.
        "#clear APT::Update::Pre-Invoke;",
        "#clear APT::Update::Post-Invoke;",
        "#clear APT::Update::Post-Invoke-Success;",
        'APT::Sandbox::User "root";',
        'Acquire::Languages "none";',
        'Acquire::GzipIndexes "true";',
        'Acquire::Retries "3";',
    )
    text = "\n".join(lines) + "\n"
    if not config.is_file() or config.read_text(encoding="utf-8") != text:
        config.write_text(text, encoding="utf-8")
    return config


def _apt(apt: str, config: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # The update needs to know nothing of releases, and fails if one is named that no list has yet.
    release = ("-o", "APT::Default-Release=") if args[0] == "update" else ()
    command = [apt, "-c", str(config), *release, *args]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    # apt gives no address for a file that lies in the current folder.
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=config.parent)


def _no_debs(update: str, found: str) -> DeviceError | MissingDependencyError:
    cause = _last_error(found)
    if "APT::Default-Release" in found and not _errors(update):
        return MissingDependencyError(
            f"The package sources of this machine are not Debian 12's ({DEBIAN}), whose qemu 7.2 and Python 3.11 the "
            "emulator is made of.",
            hint="Use a machine or a container with Debian 12, or add its sources to apt.",
        )
    if _errors(update):
        return DeviceError(
            f"apt can't update its lists: {_last_error(update)}.",
            hint="See that 'apt-get update' works on this machine, then run it again.",
        )
    return DeviceError(f"apt finds a package in none of its sources: {cause}.")


def _errors(text: str) -> list[str]:
    return [line[3:].strip() for line in text.splitlines() if line.startswith("E: ")]


def _last_error(text: str) -> str:
    """Return the most telling line of pip's or apt's complaint."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = _errors(text) or [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines[-1:] or ["it said nothing"])[0].rstrip(".")
