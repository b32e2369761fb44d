"""ExecuTorch through its Core ML delegate, for the Neural Engine: a .pte with a Core ML package inside. Nothing here can run it.

The delegate writes random names and the day into what it compiles; the packages are taken out of the lowered program,
checked, written again without those, and put back.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
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
from edgellm.backends._delegation import survey
from edgellm.backends._executorch_program import delegates, emitted
from edgellm.backends._quiet import importing, quietly
from edgellm.backends.mlpackage import NOT_RUN
from edgellm.backends.trace import example, trace, trace_static
from edgellm.core.precision import Precisions
from edgellm.core.signature import Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError

_FOLDER = "lowered_module"
_MODEL = "model.mlpackage"
_METADATA = "metadata.json"


def lower(prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>.pte."""
    scheme = precisions.name
    ensure_scheme(scheme)
    ios = system(target)
    buckets, notes = served(prepared, ios)
    with quietly():
        edge, buckets, more = _lowered(prepared, buckets, ios)
        delegation = survey(edge.exported_program(), "coreml", buckets[-1])
        packages = [_rewrite(module, scheme) for module in delegates(edge.exported_program())]
        if not packages:
            raise EdgellmError("Core ML took no part of the graph, so everything would run on slow portable kernels.")
        buffer = emitted(edge)
    name = f"model-{scheme}.pte"
    (folder / name).write_bytes(buffer)
    return Lowered(
        file=name,
        signature=Signature(narrowed(prepared), (prepared.output,), buckets=buckets),
        session_options={},
        delegation=delegation,
        contents=contents_of(_summed(packages), len(buffer)),
        notes=(*notes, *more, NOT_RUN),
    )


def _lowered(prepared: Prepared, buckets: tuple[int, ...], ios: int) -> tuple[Any, tuple[int, ...], tuple[str, ...]]:
    """Return the lowered program, the lengths that it takes, and notes.

    Several lengths need Core ML to take the whole graph (ExecuTorch asks for it where shapes are enumerated); where it
    doesn't, the longest is the only one.
    """
    if len(buckets) > 1:
        program = trace(prepared.module, prepared, torch.int32)
        try:
            return _lower(program, prepared, buckets, ios), buckets, ()
        except NotImplementedError as error:
            reason = str(error).strip().partition(",")[0]
        note = f"{reason}, so texts of every length are padded to {buckets[-1]} tokens: several lengths need the whole graph."
        return *_lowered(prepared, buckets[-1:], ios)[:2], (note,)
    program = trace_static(prepared.module, example(prepared, buckets[-1], torch.int32))
    return _lower(program, prepared, buckets, ios), buckets, ()


def _lower(program: ExportedProgram, prepared: Prepared, buckets: tuple[int, ...], ios: int) -> Any:
    with importing():
        import coremltools as ct
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    specs = CoreMLBackend.generate_compile_specs(
        compute_unit=ct.ComputeUnit.CPU_AND_NE,
        minimum_deployment_target=deployment(ios),
        compute_precision=ct.precision.FLOAT16,
    )
    several = len(buckets) > 1
    if several:
        shapes = {each.name: [[1, tokens] for tokens in buckets] for each in prepared.inputs}
        specs.append(CoreMLBackend.generate_enumerated_shapes_compile_spec(program, shapes))
    with translating(lambda: program, prepared.module):
        return to_edge_transform_and_lower(
            program,
            partitioner=[CoreMLPartitioner(compile_specs=specs, lower_full_graph=several)],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )


def _rewrite(lowered: Any, scheme: str) -> Package:
    """Write the package inside a lowered module again, so that its bytes are the same each time; return what is in it.

    Raises:
        EdgellmError: its precision is not the scheme's.

    """
    import coremltools as ct
    from executorch.backends.apple.coreml import executorchcoreml as flat

    with TemporaryDirectory() as old, TemporaryDirectory() as new:
        flat.unflatten_directory_contents(lowered.processed_bytes, old)
        found, written = Path(old) / _FOLDER, Path(new) / _FOLDER
        model = ct.models.MLModel(str(found / _MODEL), skip_model_load=True)
        if scheme == "int8-weight-only":
            model = quantize_weights(model)
        written.mkdir()
        write_package(model, written / _MODEL)
        package = read_package(written / _MODEL)
        ensure_package(package, scheme)
        metadata = json.loads((found / _METADATA).read_text(encoding="utf-8"))
        metadata["identifier"] = f"executorch_{_digest(written / _MODEL)}"
        (written / _METADATA).write_text(json.dumps(metadata, sort_keys=True), encoding="utf-8")
        lowered._processed_bytes = flattened(written)
    return package


def flattened(folder: Path) -> bytes:
    """Return a folder as the delegate's runtime reads it, whatever order the file system lists it in.

    As `flatten_directory_contents` writes it, which follows that order (executorch, `backends/apple/coreml/runtime/inmemoryfs`):
    the files one after another, then the list of nodes as JSON, its characters backwards.
    """
    nodes: list[dict[str, object]] = []
    data = bytearray()

    def add(path: Path) -> int:
        children = {child.name: add(child) for child in sorted(path.iterdir())} if path.is_dir() else {}
        content = b"" if path.is_dir() else path.read_bytes()
        region = {"offset": len(data) if content else 0, "size": len(content)}
        data.extend(content)
        nodes.append({"children": children, "dataRegion": region, "kind": int(path.is_dir()), "name": path.name})
        return len(nodes) - 1

    add(folder)
    return bytes(data) + json.dumps({"nodes": nodes}, separators=(",", ":"), sort_keys=True).encode()[::-1]


def _digest(folder: Path) -> str:
    """Return a name made from the content: the delegate keeps compiled models under it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return str(uuid.UUID(bytes=digest.digest()[:16]))


def _summed(packages: list[Package]) -> dict[str, int]:
    """Return where the bytes are, over all packages."""
    found: dict[str, int] = {}
    for package in packages:
        for kind, size in kinds(package).items():
            found[kind] = found.get(kind, 0) + size
    return found
