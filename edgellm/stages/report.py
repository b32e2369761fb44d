"""Report: what is measured of a finished bundle, kept in its `reports/`, outside of what the manifest hashes."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, cast

from edgellm.core import strict
from edgellm.runtime.bundle import MANIFEST, REPORTS, Bundle, sha256_file
from edgellm.stages.cache import versions
from edgellm.stages.verify import Verification

REPORT_VERSION = 1

_Verdict = dict[str, Any]


def write_verification(bundle: Bundle, verification: Verification) -> Path:
    """Write reports/verify-<device>.json and return its path.

    It names the manifest that it is about by hash, so that a report can't pass for another bundle's. What an older report
    about the same manifest and device says of other artifacts stays, and of the same ones where it stands on more cases,
    unless they fail now: a smaller check that passes proves less than the one it would hide.

    Raises:
        OSError: the bundle can't be written to.

    """
    data = {**_about(bundle), **cast("dict[str, object]", strict.plain(verification))}
    path = bundle.path / REPORTS / f"verify-{_plain_name(verification.device)}.json"
    artifacts = _merged(_older(path, data), cast("list[_Verdict]", data["artifacts"]))
    return _write(path, data | {"artifacts": artifacts, "ok": all(item["ok"] for item in artifacts)})


def write_evaluation(bundle: Bundle, evaluated: object) -> Path:
    """Write reports/eval-<device>-<data>.json and return its path; an older one is replaced.

    Args:
        bundle: that was evaluated.
        evaluated: what was found, as JSON: `device`, `data` and more.

    Raises:
        OSError: the bundle can't be written to.

    """
    found = cast("dict[str, object]", evaluated)
    name = f"eval-{_plain_name(str(found['device']))}-{_plain_name(str(found['data']))}.json"
    return _write(bundle.path / REPORTS / name, {**_about(bundle), **found})


def _about(bundle: Bundle) -> dict[str, object]:
    return {
        "report_version": REPORT_VERSION,
        "edgellm": versions(("edgellm",))["edgellm"],
        "target": bundle.manifest.target,
        "manifest_sha256": sha256_file(bundle.path / MANIFEST),
    }


def _plain_name(name: str) -> str:
    """Return a name that is a file's name everywhere."""
    return re.sub(r"[^\w.-]", "-", name)[:100]


def _write(path: Path, data: dict[str, object]) -> Path:
    """Write a report at once or not at all."""
    path.parent.mkdir(exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".report-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=2, ensure_ascii=False)
            file.write("\n")
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path


def _older(path: Path, data: dict[str, object]) -> list[_Verdict]:
    """Return the verdicts of the report that is there, if it is about the same bytes and of the same kind."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        if all(old[key] == data[key] for key in ("report_version", "manifest_sha256", "edgellm")):
            return [item for item in old["artifacts"] if isinstance(item["ok"], bool) and item["agreement"]["n"] > 0]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return []


def _merged(old: list[_Verdict], new: list[_Verdict]) -> list[_Verdict]:
    known = {item["id"]: item for item in old}
    for item in new:
        before = known.get(item["id"])
        if before is None or not item["ok"] or item["agreement"]["n"] >= before["agreement"]["n"]:
            known[item["id"]] = item
    return list(known.values())
