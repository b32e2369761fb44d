"""Report: what is measured of a finished bundle, kept in its `reports/`, outside of what the manifest hashes."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import cast

from edgellm.core import strict
from edgellm.runtime.bundle import MANIFEST, REPORTS, Bundle, sha256_file
from edgellm.stages.cache import versions
from edgellm.stages.verify import Verification

REPORT_VERSION = 1


def write_verification(bundle: Bundle, verification: Verification) -> Path:
    """Write reports/verify-<device>.json, replacing an older one about the same device, and return its path.

    It names the manifest that it is about by hash, so that a report can't pass for another bundle's.

    Raises:
        OSError: the bundle can't be written to.

    """
    data = {
        "report_version": REPORT_VERSION,
        "edgellm": versions(("edgellm",))["edgellm"],
        "target": bundle.manifest.target,
        "manifest_sha256": sha256_file(bundle.path / MANIFEST),
        **cast("dict[str, object]", strict.plain(verification)),
    }
    folder = bundle.path / REPORTS
    folder.mkdir(exist_ok=True)
    path = folder / f"verify-{verification.device.replace(':', '-')}.json"
    handle, partial = tempfile.mkstemp(dir=folder, prefix=".verify-")
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
