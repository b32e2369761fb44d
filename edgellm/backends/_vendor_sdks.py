"""SDKs that a vendor's delegate needs to compile, and that only the vendor gives out: tier 3, known and never run here.

Sources: docs.pytorch.org/executorch/stable, pages backends-mediatek, samsung-overview and nxp-overview, and the modules
that executorch 1.5 imports to compile.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from edgellm.errors import MissingDependencyError, UsageError


@dataclass(frozen=True)
class VendorSdk:
    """What a delegate compiles with.

    Attributes:
        name: of the SDK, as its vendor calls it.
        modules: that have to be importable.
        variable: of the environment, which has to name its folder; empty where none has to.
        source: where users get it.
        chips: that ExecuTorch's documentation names.

    """

    name: str
    modules: tuple[str, ...]
    variable: str
    source: str
    chips: str


VENDOR_SDKS: dict[str, VendorSdk] = {
    "mediatek": VendorSdk(
        "NeuroPilot Express SDK",
        ("mtk_converter", "mtk_neuron"),
        "",
        "neuropilot.mediatek.com/resources/public/npexpress/en/docs/npexpress (its wheels mtk_converter and mtk_neuron, Linux)",
        "Dimensity 9300 and 9400",
    ),
    "samsung": VendorSdk(
        "Exynos AI Litecore SDK",
        ("executorch.backends.samsung.python.PyEnnWrapperAdaptor",),
        "EXYNOS_AI_LITECORE_ROOT",
        "soc-developer.semiconductor.samsung.com/global/development/ai-litecore (then build ExecuTorch's Exynos backend with it)",
        "Exynos 2500",
    ),
    "neutron": VendorSdk(
        "eIQ Neutron SDK",
        ("eiq_neutron_sdk",),
        "",
        "NXP's own package index, as docs.pytorch.org/executorch/stable/backends/nxp/nxp-overview.html says (eiq-neutron-sdk)",
        "i.MX RT700",
    ),
}
"""A target's delegate to its SDK."""


def ensure_sdk(delegate: str) -> None:
    """Check that the SDK of a vendor's delegate is installed; a delegate that needs none passes.

    Raises:
        MissingDependencyError: it is not; says where users get it.
        UsageError: it is, and nothing here uses it.

    """
    sdk = VENDOR_SDKS.get(delegate)
    if sdk is None:
        return
    lacking = [f"no module {name}" for name in sdk.modules if not _importable(name)]
    if sdk.variable and not os.path.isdir(os.environ.get(sdk.variable, "")):
        lacking.append(f"no folder in {sdk.variable}")
    if lacking:
        raise MissingDependencyError(
            f"The delegate {delegate} ({sdk.chips}) needs {sdk.name}, and there is {' and '.join(lacking)}.",
            hint=f"Get it from {sdk.source}. Nothing about this target was ever run by edgellm (tier 3).",
        )
    raise UsageError(
        f"{sdk.name} is installed, and edgellm does not lower for {delegate} yet: it could never be tried.",
        hint="executorch's own exporter does, by the SDK's documentation.",
    )


def _importable(name: str) -> bool:
    """Tell whether a module could be imported, without doing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # a parent is missing
        return False
