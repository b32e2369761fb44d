"""Pictures: SVG files with the same bytes for the same content. Only `save` imports matplotlib, of the `search` extra."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ensure_writable(path: Path, option: str) -> None:
    """Check that a picture can be written to a path, and leave what is there as it is.

    Args:
        path: of the file that is to be.
        option: that the user named it with.

    Raises:
        UsageError: it does not end in .svg, or can't be written.
        MissingDependencyError: matplotlib is not installed.

    """
    if path.suffix.lower() != ".svg":
        raise UsageError(f"{option} writes SVG, and '{path}' does not end in .svg.", hint="Name a file that does.")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            f"{option} needs matplotlib.", hint="Install it with: pip install 'edgellm[search]'"
        )
    try:
        there = path.exists()
        if there and not path.is_file():
            raise UsageError(f"{option} can't write '{path}': it is no file.", hint="Name another.")
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise UsageError(
            f"{option} can't write '{path}': {error.strerror or error}.", hint="Name a file in a folder that is there."
        ) from None


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, its text as text: whoever looks at it may have glyphs that matplotlib's font lacks."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Names of parts are drawn at random otherwise.
    with matplotlib.rc_context({"svg.hashsalt": "edgellm", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})
