"""How results look to a person: plain columns, which work on a device without rich."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellm.abi import KINDS, Examination
from edgellm.benchmark import Benchmark
from edgellm.core.evaluation import Evaluation
from edgellm.core.manifest import Artifact, Manifest
from edgellm.core.signature import Signature
from edgellm.core.target import Target
from edgellm.counting import Counted
from edgellm.doctor import Health
from edgellm.stages.package import notes_of
from edgellm.stages.verify import Verification, shorten

if TYPE_CHECKING:
    from edgellm.evaluation import Evaluated


def columns(head: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1) -> str:
    """Return a table; the first `left` columns are aligned left, the others right."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for row in cells:
        parts = [
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def built(manifest: Manifest, path: str) -> str:
    """Return the summary of a build."""
    rows = [
        (a.format, a.scheme, a.delegate, f"{a.bytes / 1e6:.1f}",
         *((f"{a.agreement.mean:.4f}", f"{a.agreement.min:.4f}") if a.agreement else ("not run", "not run")),
         _known(a.delegation.partitions if a.delegation else None))
        for a in manifest.artifacts
    ]  # fmt: skip
    table = columns(("format", "scheme", "delegate", "MB", "agreement", "min", "partitions"), rows, left=3)
    ran = [a.agreement for a in manifest.artifacts if a.agreement]
    places = " and ".join(dict.fromkeys(agreement.device for agreement in ran))
    measure = (
        f"Agreement: {ran[0].metric} with the fp32 model, {ran[0].n} texts, run on {places}."
        if ran
        else ("No artifact was run: nothing on this machine runs them.")
    )
    notes = "".join(f"\n{note}" for note in notes_of(manifest))
    measured = [(a.format, a.evaluation) for a in manifest.artifacts if a.evaluation]
    if measured:
        lost = [(fmt, e.metric, f"{e.source:.4f}", f"{e.value:.4f}", *_lost(e)) for fmt, e in measured]
        head = ("format", "metric", "fp32", "here", "points lost", "95 % interval", "McNemar p", "changed")
        table += f"\n\n{columns(head, lost, left=2)}\n\n{measured[0][1].n} labelled examples."
    return f"{manifest.model.name} for {manifest.target} -> {path}\n\n{table}\n\n{measure}{notes}"


def verified(result: Verification) -> str:
    """Return the verdicts."""
    first = result.artifacts[0]
    others = list(first.against)
    rows = [
        (v.format, "ok" if v.ok else "FAILED", f"{v.agreement.mean:.4f}", f"{v.agreement.min:.4f}",
         *(f"{v.against[name].mean:.4f}" for name in others), v.agreement.n)
        for v in result.artifacts
    ]  # fmt: skip
    here = result.machine
    emulated = f", emulated ({here.cpu}, {here.arch}, {' '.join(here.features)})" if result.emulated else ""
    table = columns(("format", "verdict", "agreement", "min", *(f"with {n}" for n in others), "cases"), rows, left=2)
    beside = f"; with {' and '.join(others)}: the same file there, mean" if others else ""
    lowest = min(result.artifacts, key=lambda v: v.agreement.min)
    return table + (
        f"\n\nAgreement: {first.agreement.metric} with the fp32 model{beside}; from raw text, on {first.agreement.device}"
        f"{emulated}.\n{', '.join(sorted({v.engine for v in result.artifacts}))}. "
        f'Worst of all: {lowest.format} on "{shorten(lowest.agreement.worst)}".'
    )


def evaluated(result: Evaluated) -> str:
    """Return the scores, what they lost against the fp32 source, and some decisions that changed."""
    names = list(result.artifacts[0].metrics)
    rows = [
        (a.format, "ok" if a.ok else "FAILED", *(f"{a.metrics[name]:.4f}" for name in names), *_lost(a.evaluation))
        for a in result.artifacts
    ]
    compared = result.artifacts[0].evaluation
    if compared is not None:
        scores = (f"{compared.metrics[name][0]:.4f}" for name in names)
        rows.insert(0, ("fp32 source", "", *scores, "", "", "", ""))
    head = ("", "", *names, *(("lost", "95 % interval", "McNemar p", "changed") if compared else ()))
    emulated = ", emulated" if result.emulated else ""
    lines = [
        columns(head, rows, left=2),
        "",
        f"{result.n} examples of {result.data}, run on {result.device}{emulated}.",
    ]
    if compared is not None:
        lines.append(
            f"lost: points of {compared.metric}, with a paired bootstrap interval; one that reaches below 0 may be noise. "
            "changed: decisions that differ from fp32's."
        )
    lines += [f"{a.truncated} inputs were cut to fit {a.format}." for a in result.artifacts[:1] if a.truncated]
    worst = max((a for a in result.artifacts if a.evaluation), key=lambda a: _flipped(a.evaluation), default=None)
    if worst is not None and worst.evaluation is not None and worst.evaluation.flips:
        lines += ["", f"Changed by {worst.format}:"]
        lines += [
            f'  {flip.source} -> {flip.got} (people say {flip.expected}): "{flip.input}"'
            for flip in worst.evaluation.flips[:5]
        ]
    return "\n".join(lines)


def _lost(found: Evaluation | None) -> tuple[str, ...]:
    if found is None:
        return ()
    drop = found.drop
    chance = "" if found.mcnemar_p is None else f"{found.mcnemar_p:.2f}"
    share = "" if found.mcnemar_p is None else f"{found.flipped} ({100 * found.flipped_share:.1f} %)"
    return f"{drop.points:.2f}", f"{drop.low:.2f} to {drop.high:.2f}", chance, share


def _flipped(found: Evaluation | None) -> int:
    return 0 if found is None else found.flipped


def benched(result: Benchmark) -> str:
    """Return the latency table and the machine it is about."""
    twice = len({r.id for r in result.records}) > len({r.format for r in result.records})
    rows = [
        (r.id if twice else r.format, r.tokens, f"{r.p50_ms:.2f}", f"{r.p90_ms:.2f}",
         "n/a" if r.p99_ms is None else f"{r.p99_ms:.2f}",
         f"{r.mean_ms:.2f}", f"{r.cpu_ms:.2f}", f"{r.tokenize_ms:.3f}", f"{r.load_ms:.0f}", f"{r.first_ms:.2f}",
         f"{r.peak_rss_mb:.0f}")
        for r in result.records
    ]  # fmt: skip
    name = "artifact" if twice else "format"
    head = (name, "tokens", "p50", "p90", "p99", "mean", "cpu", "tokenize", "load", "first", "peak MB")
    first = result.records[0]
    engines = ", ".join(sorted(set(result.engines.values())))
    return columns(head, rows) + (
        f"\n\nMilliseconds of one forward pass, {first.runs} runs, {first.threads} thread{'s' * (first.threads > 1)}, "
        f"formats interleaved; {engines}.\n{result.machine}"
    )


def counted(result: Counted) -> str:
    """Return the table of instruction counts; beside an fp32 artifact, what each takes of it."""
    rows = [
        (
            r.cpu,
            r.format,
            r.scheme,
            r.tokens,
            f"{r.instructions / 1e6:,.2f}",
            "" if r.of_fp32 is None else f"{r.of_fp32:.3f}",
        )
        for r in sorted(result.records, key=lambda r: (r.cpu, r.tokens, r.format, r.scheme))
    ]
    engines = ", ".join(sorted({name for each in result.engines.values() for name in each.values()}))
    table = columns(("cpu", "format", "scheme", "tokens", "M instructions", "of fp32"), rows, left=3)
    return f"{table}\n\nMillions of Arm instructions of one inference, warm, one thread, emulated; {engines}."


def inspected(manifest: Manifest, target: Target | None) -> str:
    """Return signature, delegation and bytes of every artifact."""
    lines = [
        f"{manifest.task}: {manifest.model.name} ({manifest.model.parameters:,} parameters, licence "
        f"{manifest.model.licence or 'not stated'}) for {manifest.target}"
        + (f", tier {target.tier}" if target else ""),
        f"longest text {manifest.max_tokens} tokens, gate {manifest.min_agreement:g}",
        *notes_of(manifest),
    ]
    for a in manifest.artifacts:
        lines += ["", f"{a.file}: {a.bytes / 1e6:.2f} MB, {a.scheme}, {a.delegate}"]
        lines.append(f"  signature   {_signature(a.signature)}")
        lines += _delegation(a)
        lines.append(f"  agreement   {a.agreement or 'not run'}")
        lines += [f"  {row.bytes / 1e6:9.2f} MB  {100 * row.bytes / a.bytes:4.1f} %  {row.kind}" for row in a.contents]
    return "\n".join(lines)


def _delegation(artifact: Artifact) -> list[str]:
    """Return how the graph is shared with the delegate, each kind of operator outside with its cause, and estimates."""
    found, npu = artifact.delegation, artifact.npu
    if found is None:
        return [f"  delegation  decided by {artifact.delegate} when it loads"]
    share = f", {found.share_of_cost:.1%} of the {found.basis}" if found.cost_inside + found.cost_outside else ""
    partitions = "" if found.partitions is None else f", in {found.partitions} partition{'s' * (found.partitions != 1)}"
    lines = [
        f"  delegation  {found.delegate}: {found.inside} of {found.inside + found.outside} operators{share}{partitions}"
    ]
    lines += [f"     outside  {each.count} {each.operator}: {each.cause}" for each in found.fallbacks]
    if npu is not None:
        planned = f"{npu.accelerator.system}, {npu.accelerator.memory_mode}"
        lines += [
            f"    estimate  {npu.estimated_ms:.1f} ms on {npu.accelerator.name} alone, estimated by {npu.compiler}",
            f"      memory  {npu.sram_bytes / 1024:.0f} KiB SRAM, {npu.dram_bytes / 1024:.0f} KiB DRAM, "
            f"{npu.flash_bytes / 1024:.0f} KiB flash, as it planned for {planned}",
        ]
    return lines


def targets(items: Sequence[Target]) -> str:
    """Return the table of targets."""
    rows = [(t.name, t.tier, t.cpu, " ".join(t.formats), t.scheme, t.summary) for t in items]
    return columns(("target", "tier", "cpu", "formats", "scheme", "what it is"), rows, left=6) + (
        "\n\nTier 1 is executed in CI (Arm on emulated CPUs, an NPU by its vendor's emulation), tier 2 built in CI and its "
        "artifacts executed\non x86-64 where that is possible (Core ML's and Vulkan's are read back), tier 3 neither."
    )


def health(result: Health) -> str:
    """Return the doctor's findings."""
    lines = [
        f"Python {result.python}{'' if result.python_ok else '  OUTSIDE the tested range'}",
        str(result.machine),
        "",
    ]
    rows = []
    for p in result.packages:
        state = "not installed" if p.found is None else "ok" if p.ok else "OUTSIDE the tested range"
        rows.append((p.name, p.extra, p.wanted or "any", p.found or "-", state))
    lines.append(columns(("package", "extra", "tested together", "installed", ""), rows, left=5))
    lines.append("")
    for f in result.formats:
        run = f"runs with {f.engine}" if f.engine else f"can't run: pip install 'edgellm[{f.format}]'"
        make = (
            "builds"
            if f.can_build
            else f"can't be built: {', '.join(f.missing)} missing (pip install 'edgellm[build]')"
        )
        lines.append(f"{f.format}: {run}; {make}")
    return "\n".join(lines)


def examined(result: Examination) -> str:
    """Return the facts of every file, what was found, and what to do about it."""
    lines = []
    for facts in result.facts:
        lines.append(f"{facts.subject}: {KINDS[facts.kind]}")
        shown = {name: ", ".join(v) if isinstance(v, tuple) else v for name, v in facts.values.items()}
        width = max(map(len, shown))
        lines += [
            textwrap.fill(f"  {name.ljust(width)}  {value}", 110, subsequent_indent=" " * (width + 4))
            for name, value in shown.items()
            if value not in (None, "")
        ]
        lines.append("")
    if result.findings:
        rows = [(f.subject, f.rule, "ERROR" if f.level == "error" else f.level, f.message) for f in result.findings]
        lines += [columns(("file", "rule", "", "what was found"), rows, left=4), ""]
    for finding in result.findings:
        if finding.hint:
            lines.append(f"{finding.subject}, {finding.rule}: {finding.hint}")
    against = f"for {result.target}" if result.target else "with no target (--target compares with one)"
    counts = {level: sum(f.level == level for f in result.findings) for level in ("error", "warning")}
    verdict = ", ".join(f"{n} {level}{'s' * (n > 1)}" for level, n in counts.items() if n) or "nothing wrong"
    return "\n".join([*lines, f"{result.path} {against}: {verdict}."])


def _signature(signature: Signature) -> str:
    inputs = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in signature.inputs)
    outputs = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in signature.outputs)
    lengths = f"tokens in {list(signature.buckets)}" if signature.buckets else f"tokens from {signature.min_tokens}"
    return f"{inputs} -> {outputs}; {lengths}".replace("'", "")


def _known(number: int | None) -> str:
    return "at load" if number is None else str(number)


def answer(value: object) -> str:
    """Return a task's answer, as JSON has it, for people: one line per part, its score first; vectors are shortened."""
    if isinstance(value, list) and value and isinstance(value[0], float):
        head = ", ".join(f"{x:.4f}" for x in value[:6])
        return f"[{head}, ...] ({len(value)} numbers; --json prints all)" if len(value) > 6 else f"[{head}]"
    if isinstance(value, list) and value and isinstance(value[0], list) and isinstance(value[0][0], float):
        return f"{len(value)} vectors of {len(value[0])} numbers (--json prints all)"
    if isinstance(value, list):
        between = "\n\n" if value and isinstance(value[0], list) else "\n"
        return between.join(map(answer, value)) if value else "nothing found"
    if isinstance(value, dict) and isinstance(value.get("scores"), list):
        return "\n".join(f"{score:.4f}  {label}" for label, score in zip(value["labels"], value["scores"], strict=True))
    if isinstance(value, dict) and "score" in value:
        rest = "  ".join(str(item) for name, item in value.items() if name != "score")
        return f"{value['score']:.4f}  {rest}"
    return str(value)
