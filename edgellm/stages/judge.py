"""Judge: whether measured agreement lets a bundle ship, and what to say where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgellm.core.agreement import AgreementMatrix
from edgellm.core.manifest import Artifact
from edgellm.errors import GateError
from edgellm.stages.verify import HOST, Verification, shorten


def judge(
    artifacts: Sequence[Artifact], table: AgreementMatrix, min_agreement: float, max_drop: float,
    min_exact: float | None = None,
) -> None:  # fmt: skip
    """Raise if an artifact does not agree with the fp32 source well enough.

    Raises:
        GateError: one falls short; the message says by how much, on which text, and what to try.

    """
    short = [a for a in artifacts if a.agreement and a.agreement.falls_short(min_agreement, min_exact)]
    dropped = [a for a in artifacts if a.evaluation and a.evaluation.drop.real and a.evaluation.drop.points > max_drop]
    if not short and not dropped:
        return
    lines = []
    for artifact in short:
        agreement = artifact.agreement
        assert agreement is not None
        lines.append(
            f"{artifact.format} {artifact.scheme} agrees with the fp32 model {agreement.falls_short(min_agreement, min_exact)}, "
            f'worst {agreement.min:.4f} on "{shorten(agreement.worst)}".'
        )
    for artifact in dropped:
        assert artifact.evaluation is not None
        measured = artifact.evaluation
        lines.append(
            f"{artifact.format} {artifact.scheme} has an {measured.metric} of {measured.value:.4f} on {measured.n} "
            f"labelled texts, the fp32 model {measured.source:.4f}: {measured.drop} (--max-drop is {max_drop:g})."
        )
    lines += ["", "Mean agreement of each pair:", *_table(table)]
    if len(table.names) > 2:
        odd = table.odd_one_out()
        lines.append(
            "The artifacts agree with each other and not with the source: the scheme is to blame, not one format."
            if odd == "source"
            else f"The odd one out is {odd}."
        )
    raise GateError("\n".join(lines), hint=_advice(short or dropped))


NPUS = ("coreml", "ethos-u", "htp", "vulkan")
"""Delegates that are there for what multiplies matrices: what of it stays outside fails a build."""


_LOOKUPS = ("Gather", "Cast")
"""What may stay outside the HTP: looking up embeddings. Anything else would split the encoder."""


def judge_delegation(artifacts: Sequence[Artifact], most: float | None) -> None:
    """Raise if too much of a graph stayed outside its delegate.

    Args:
        artifacts: with their delegations.
        most: share that may stay outside, 0 to 1; None asks of NPUs that they take what multiplies matrices.

    Raises:
        GateError: more did; the message names each operator with its cause.

    """
    lines = []
    for artifact in artifacts:
        delegation = artifact.delegation
        if delegation is None:
            continue  # decided when it loads, which the report says
        left = delegation.fallbacks
        if most is None and artifact.delegate == "htp":
            left = tuple(each for each in left if each.operator not in _LOOKUPS)
        elif most is None:
            left = delegation.heavy if artifact.delegate in NPUS else ()
        elif delegation.fallback_share <= most:
            left = ()
        if left:
            shown = "; ".join(f"{each.count} {each.operator} ({each.cause})" for each in left[:5])
            rest = f"; and {len(left) - 5} more kinds" if len(left) > 5 else ""
            total = delegation.inside + delegation.outside
            known = delegation.cost_inside + delegation.cost_outside > 0
            cost = f" and {1 - delegation.share_of_cost:.1%} of the {delegation.basis}" if known else ""
            lines.append(
                f"{artifact.id}: {delegation.outside} of {total} operators{cost} stay outside {artifact.delegate}: {shown}{rest}."
            )
    if lines:
        raise GateError(
            "\n".join(lines), hint="Rewrite that part of the model, choose another target, or raise --max-fallback."
        )


def _advice(artifacts: Sequence[Artifact]) -> str:
    schemes = {artifact.scheme for artifact in artifacts}
    if "fp32" in schemes:
        return "fp32 should agree to rounding: the conversion itself is wrong; please report it."
    if schemes & {"int4-dynamic", "int4-weight-only", "mixed"}:
        return (
            "\nTry --scheme mixed with 8 bits for the layers that lose most ('edgellm sensitivity' shows which), "
            "--calibration with texts of your domain, or the --min-agreement that your product bears."
        )
    if "int8-dynamic" in schemes:
        return "\nTry --scheme int8-weight-only, another --format, or --scheme fp32 to see whether quantizing is the cause."
    if "int8-static" in schemes:
        return (
            "\nTry --scheme int8-dynamic, or --calibration with texts of your domain; 'edgellm sensitivity' shows which layers "
            "lose what."
        )
    return "\nTry --scheme fp32 to see whether quantizing is the cause."


def _table(table: AgreementMatrix) -> Iterator[str]:
    width = max(map(len, table.names))
    yield " " * width + "  " + "  ".join(f"{name:>{max(len(name), 6)}}" for name in table.names)
    for name, row in zip(table.names, table.values, strict=True):
        cells = (f"{v:>{max(len(n), 6)}.4f}" for v, n in zip(row, table.names, strict=True))
        yield f"{name:<{width}}  " + "  ".join(cells)


def judge_device(verification: Verification, min_agreement: float, min_exact: float | None = None) -> None:
    """Raise if an artifact does not do on a device what it did on the build host.

    Raises:
        GateError: one falls short; the message says where, by how much, and on which text.

    """
    lines = []
    for verdict in verification.artifacts:
        for other, agreement in (
            ("the fp32 model", verdict.agreement),
            ("the same file on the host", verdict.against.get(HOST)),
        ):
            if agreement is not None and (short := agreement.falls_short(min_agreement, min_exact)):
                lines.append(
                    f"{verdict.id} on {verification.device} agrees with {other} {short}, worst "
                    f'{agreement.min:.4f} on "{shorten(agreement.worst)}".'
                )
    if lines:
        raise GateError("\n".join(lines), hint="\nTry --scheme int8-weight-only, or another --format.")
