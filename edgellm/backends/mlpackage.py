"""Core ML: an .mlpackage for the Neural Engine, in 16-bit floats. Written here and read back; nothing here can run it.

One package serves all buckets by enumerated shapes, which Apple says the Neural Engine runs, where it runs of a range of
shapes the default alone (see `edgellm.abi.coreml` for the sources).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from edgellm.abi.coreml_package import Package, read_package
from edgellm.backends import Lowered, Prepared, contents_of
from edgellm.backends._coreml_package import (
    deployment,
    ensure_package,
    ensure_scheme,
    kinds,
    narrowed,
    quantize_weights,
    served,
    system,
    translating,
    write_package,
)
from edgellm.backends._quiet import importing, quietly
from edgellm.backends.trace import example, trace, trace_static
from edgellm.core.precision import Precisions
from edgellm.core.signature import Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError

MANIFEST = "Manifest.json"
"""The file of a package that names the others."""

NOT_RUN = (
    "The Core ML artifact was not run: there is no Core ML on this machine. Its structure and precision were checked."
)
"""The note that every artifact for Core ML carries."""


def lower(prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>.mlpackage, a folder."""
    scheme = precisions.name
    ensure_scheme(scheme)
    ios = system(target)
    buckets, notes = served(prepared, ios)
    with quietly():
        program = _traced(prepared, buckets)
        with translating(lambda: program, prepared.module):
            model = convert(program, prepared, buckets, ios)
        if scheme == "int8-weight-only":
            model = quantize_weights(model)
    path = folder / f"model-{scheme}.mlpackage"
    write_package(model, path)
    package = read_package(path)
    ensure_package(package, scheme)
    ensure_interface(package, prepared, buckets)
    files = sorted(file.relative_to(folder).as_posix() for file in path.rglob("*") if file.is_file())
    main = f"{path.name}/{MANIFEST}"
    total = sum((folder / name).stat().st_size for name in files)
    return Lowered(
        file=main,
        more_files=tuple(name for name in files if name != main),
        signature=Signature(narrowed(prepared), (prepared.output,), buckets=buckets),
        session_options={},
        delegation=None,  # Core ML decides when it loads, by the device
        contents=contents_of(kinds(package), total),
        notes=(*notes, NOT_RUN),
    )


def convert(program: ExportedProgram, prepared: Prepared, buckets: tuple[int, ...], ios: int) -> Any:
    """Return the converted model, in memory."""
    with importing():
        import coremltools as ct

    lengths = [[1, tokens] for tokens in buckets]
    shape = ct.EnumeratedShapes(shapes=lengths, default=lengths[-1]) if len(lengths) > 1 else tuple(lengths[0])
    return ct.convert(
        program,
        source="pytorch",
        convert_to="mlprogram",
        inputs=[ct.TensorType(name=each.name, shape=shape, dtype=np.int32) for each in prepared.inputs],
        outputs=[ct.TensorType(name=prepared.output.name, dtype=np.float32)],
        compute_precision=ct.precision.FLOAT16,
        compute_units=ct.ComputeUnit.CPU_AND_NE,
        minimum_deployment_target=deployment(ios),
        skip_model_load=True,
    )


def ensure_interface(package: Package, prepared: Prepared, buckets: tuple[int, ...]) -> None:
    """Check that a package takes and gives what the signature says.

    Raises:
        EdgellmError: an input or output has another name, type or shape.

    """
    expected = {(each.name, "int32", frozenset((1, tokens) for tokens in buckets)) for each in prepared.inputs}
    found = {(each.name, each.dtype, frozenset(each.shapes)) for each in package.inputs}
    given = [(each.name, each.dtype) for each in package.outputs]
    ranged = [each.name for each in package.inputs if each.ranged]
    if found != expected or ranged:
        names = ", ".join(sorted(f"{name} {dtype} {sorted(shapes)}" for name, dtype, shapes in found))
        raise EdgellmError(f"The Core ML package takes other inputs than its signature says: {names}.")
    if given != [(prepared.output.name, "float32")]:
        raise EdgellmError(f"The Core ML package gives {given} where {prepared.output.name} in float32 is expected.")


def _traced(prepared: Prepared, buckets: tuple[int, ...]) -> ExportedProgram:
    """Return the program that the converter takes: of one length, or of any up to the longest."""
    if len(buckets) == 1:
        program = trace_static(prepared.module, example(prepared, buckets[0]))
    else:
        program = trace(prepared.module, prepared)
    return program.run_decompositions({})
