"""How a Core ML package fits a target: its version, its precision, and whether the Neural Engine may run its shapes.

What is known of the Neural Engine, and where from:
- It computes in 16-bit floats: a model typed float 32 "will execute on a combination of the GPU and CPU"
  (apple.github.io/coremltools/docs-guides, "Typed Execution Workflow Example").
- Of a model with ranges of shapes it runs the default shape alone; of one with enumerated shapes each "should be able to
  run on the Neural Engine" (an Apple engineer, developer.apple.com/forums/thread/724930).
Apple publishes no list of operators: which of them runs where is only known on a device (`MLComputePlan`, Xcode's
performance report). So operators are counted here, and nothing is claimed of them.
"""

from __future__ import annotations

from pathlib import Path

from edgellm.abi import FileFacts, Finding, Level
from edgellm.abi.coreml_package import Feature, Package, read_package
from edgellm.core.target import Target, platform

KIND = "mlpackage"

_SYSTEMS = {6: 15, 7: 16, 8: 17, 9: 18, 10: 26}
"""Specification version of an ML program to the oldest iOS that reads it (coremltools' `ct.target`)."""

Rule = tuple[str, Level, str, str]
"""Rule, level, message and hint of a finding."""


def examine_coreml(path: Path, subject: str, target: Target | None) -> tuple[FileFacts, list[Finding]]:
    """Return facts and findings of one package.

    Raises:
        InputError: it can't be read, or is no sound package.

    """
    package = read_package(path)
    facts = FileFacts(
        subject,
        KIND,
        {
            "specification": package.specification,
            "opset": package.opset,
            "inputs": tuple(_described(feature) for feature in package.inputs),
            "outputs": tuple(_described(feature) for feature in package.outputs),
            "operators": tuple(f"{name} x {count}" for name, count in sorted(package.operators.items())),
            "results": tuple(f"{name} x {count}" for name, count in sorted(package.results.items())),
            "weights": tuple(f"{name}: {size} bytes" for name, size in package.stored().items()),
        },
    )
    rules = [_system(package, target), *precision(package), shapes(package)] if target else []
    return facts, [Finding(subject, *rule) for rule in rules if rule is not None]


def precision(package: Package) -> list[Rule]:
    """Return whether a package computes in 16-bit floats, which the Neural Engine needs."""
    half = package.results.get("float16", 0)
    if package.float32:
        named = ", ".join(package.float32[:3]) + (", ..." if len(package.float32) > 3 else "")
        return [(
            "precision", "error",
            f"{len(package.float32)} of {half + len(package.float32)} floating-point operators give float32 ({named}), "
            "which the Neural Engine does not compute.",
            "Build it with the scheme fp16.",
        )]  # fmt: skip
    return [("precision", "ok", f"all {half} floating-point operators give float16.", "")]


def shapes(package: Package) -> Rule:
    """Return whether the Neural Engine may run every shape that a package takes."""
    ranged = [feature.name for feature in package.inputs if feature.ranged]
    if ranged:
        return (
            "shapes", "error", f"{', '.join(ranged)} may have any shape of a range, and the Neural Engine runs the default one "
            "alone.", "Build it with buckets, which become enumerated shapes.",
        )  # fmt: skip
    count = max((len(feature.shapes) for feature in package.inputs), default=0)
    return "shapes", "ok", f"inputs have {count} fixed {'shape' if count == 1 else 'shapes'}.", ""


def _system(package: Package, target: Target | None) -> Rule | None:
    """Return whether the target's oldest system reads the specification."""
    oldest = _SYSTEMS.get(package.specification)
    if oldest is None:
        return "specification", "warning", f"version {package.specification}, of which nothing is known.", ""
    name, release = platform(target.abi) if target else ("", ())
    if name != "ios":
        return (
            "specification",
            "error",
            f"version {package.specification}; Core ML is Apple's, and the target is not.",
            "",
        )
    if release[0] < oldest:
        return (
            "specification", "error", f"version {package.specification} needs iOS {oldest}, and the target allows {release[0]}.",
            "Raise the target's abi, or build with one bucket, which needs less.",
        )  # fmt: skip
    return "specification", "ok", f"version {package.specification}, which iOS {oldest} and newer read.", ""


def _described(feature: Feature) -> str:
    """Return what people read of a feature: "input_ids int32 [1, 16] [1, 32]"."""
    return " ".join([feature.name, feature.dtype, *(str(list(shape)) for shape in feature.shapes)])
