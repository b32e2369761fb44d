"""Files of devices that see this machine's own: nothing has to be brought anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgellm.errors import DeviceError


class LocalFiles:
    """The files' half of a device that shares this machine's."""

    name: str

    def push(self, path: Path) -> str:
        """Return the file's own path: it is there already."""
        return str(path.resolve())

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file.

        Raises:
            DeviceError: it is not there, or can't be written.

        """
        try:
            shutil.copyfile(remote, local)
        except OSError as error:
            raise DeviceError(f"{remote} can't be brought from {self.name} to {local}: {error.strerror}.") from None
