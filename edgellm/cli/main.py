"""`edgellm`: build, run, bench, verify, inspect, targets, doctor; the other commands have files beside this one.

A command imports what it needs when it runs, so that a device without converters can use it.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

import edgellm
from edgellm.cli import device as device_commands
from edgellm.cli import distill as distill_command
from edgellm.cli import evaluate as evaluate_command
from edgellm.cli import prune as prune_command
from edgellm.cli import runner as runner_commands
from edgellm.cli import search as search_command
from edgellm.cli import sensitivity as sensitivity_command
from edgellm.cli import support as support_command
from edgellm.core import strict
from edgellm.errors import EdgellmError, UsageError

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
_FORMAT = click.option("--format", "formats", multiple=True, help="A format (may be repeated); all if left out.")

_DEVICE = click.option(
    "--device", "devices", multiple=True, help="Where to run (may be repeated); the host if left out."
)


class _Numbers(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Whole numbers separated by commas."""

    name = "n,n,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers, or fail as click does."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not whole numbers separated by commas.", param, ctx)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(edgellm.__version__, prog_name="edgellm")
def cli() -> None:
    """Lower PyTorch transformers to int8 artifacts that provably give the same answers, and run them on the device."""


@cli.command()
@click.argument("model", required=False)
@click.option("--target", required=True, help="What to build for; 'edgellm targets' lists them.")
@_FORMAT
@click.option(
    "--scheme", multiple=True, metavar="[FORMAT=]SCHEME",
    help="What is quantized how, in every format or in one; the target's default if left out.",
)  # fmt: skip
@click.option("--layers", help="TOML or JSON file with a scheme for each layer, for --scheme mixed.")
@click.option("--task", help="Hugging Face pipeline id; from the model's architecture if left out.")
@click.option("--tokenizer", help="Folder with tokenizer.json, where the model's folder has none.")
@click.option("--pooling", help="mean, cls or none, for feature-extraction; as the model's own files ask if left out.")
@click.option("--calibration", help="File of one text per line, for schemes that calibrate.")
@click.option("--ranges", help="How int8-static chooses ranges: mse (the default), minmax, percentile or entropy.")
@click.option(
    "--golden",
    help="File of one text per line, like those of the product: the gate runs them, and the bundle keeps them.",
)
@click.option("--eval", "evaluation", help="Labelled examples: .tsv, .csv, .jsonl, or a saved Hugging Face dataset.")
@click.option(
    "--max-drop", type=float, help="Points that --eval's first metric may lose, if the loss is no noise; 1 if left out."
)
@click.option(
    "--vocab-from",
    help="File of one text per line that the product reads: pieces of the vocabulary that they don't need are dropped, and "
    "their rows of the embedding table; these texts are answered as before, others may not be.",
)
@click.option(
    "--alternatives", default=1, help="For ctc-seq2seq: likeliest tokens of a slot that are kept to choose among."
)
@click.option("--no-equalize", is_flag=True, help="Leave outlying channels as they are.")
@click.option(
    "--no-fit", is_flag=True, help="Round weights to the nearest, where they would be fitted to calibration texts."
)
@click.option(
    "--max-fallback", type=float,
    help="Share of the multiply-accumulates that may stay outside the delegate, 0 to 1; if left out, none on an NPU.",
)  # fmt: skip
@click.option("--min-agreement", default=0.99, show_default=True, help="The gate: mean agreement with the fp32 model.")
@click.option(
    "--min-exact", type=float, help="The gate of answers that are texts: share that is the fp32 model's to the letter."
)
@click.option(
    "--seq-len", type=_Numbers(), help="Token counts to serve without padding beyond; the last is the longest."
)
@click.option("--out", help="The bundle's folder; MODEL-TARGET if left out.")
@click.option("--verify-on-device", is_flag=True, help="Gate on the target's own devices too ('edgellm targets NAME').")
@click.option("--no-cache", is_flag=True, help="Make everything anew, and keep nothing for the next build.")
@click.option("--quiet", is_flag=True, help="No progress.")
@_JSON
def build(
    model: str | None, target: str, formats: tuple[str, ...], scheme: tuple[str, ...], layers: str | None, task: str | None,
    tokenizer: str | None, pooling: str | None, calibration: str | None, ranges: str | None, golden: str | None,
    evaluation: str | None, max_drop: float | None, vocab_from: str | None, alternatives: int, no_equalize: bool,
    no_fit: bool, max_fallback: float | None, min_agreement: float, min_exact: float | None,
    seq_len: tuple[int, ...] | None, out: str | None, verify_on_device: bool, no_cache: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Build a verified bundle from MODEL.

    MODEL is a folder written by save_pretrained, or package.module:function that returns an nn.Module; left out, it is
    the sentence encoder of the demo extra.
    """
    from edgellm.cli import render
    from edgellm.cli.progress import build_progress
    from edgellm.pipeline import build_timed

    with build_progress(quiet=quiet or as_json) as progress:
        done = build_timed(
            model, target=target, formats=formats, scheme=scheme or None, layers=layers, task=task, tokenizer=tokenizer,
            pooling=pooling,
            calibration=calibration, ranges=ranges, golden=golden, eval=evaluation, max_drop=max_drop, vocab_from=vocab_from,
            alternatives=alternatives, equalize=not no_equalize, fit=not no_fit, max_fallback=max_fallback,
            min_agreement=min_agreement, min_exact=min_exact, seq_len=seq_len, out=out, verify_on_device=verify_on_device,
            cache=not no_cache, progress=progress,
        )  # fmt: skip
    if as_json:
        manifest = strict.plain(done.bundle.manifest)
        devices = strict.plain(done.devices)
        _print_json(
            {"bundle": str(done.bundle.path), "manifest": manifest, "seconds": done.seconds, "devices": devices}
        )
    elif not quiet:
        click.echo(render.built(done.bundle.manifest, str(done.bundle.path)))
        for result in done.devices:
            click.echo("\n" + render.verified(result))


@cli.command()
@click.argument("bundle")
@click.argument("text", required=False)
@click.option("--task-input", metavar="JSON", help="The task's arguments in place of TEXT, as JSON.")
@click.option("--format", "fmt", help="A format; the first whose engine is installed if left out.")
@click.option("--threads", default=1, show_default=True, help="Compute threads.")
@_JSON
def run(bundle: str, text: str | None, task_input: str | None, fmt: str | None, threads: int, as_json: bool) -> None:
    r"""Answer TEXT with BUNDLE in one forward pass.

    Tasks that need more than a text take --task-input, with the arguments of the transformers pipeline of that name:

    \b
        edgellm run BUNDLE --task-input '{"question": "...", "context": "..."}'
    """
    from edgellm.cli import render
    from edgellm.runtime import Session, engines
    from edgellm.runtime.bundle import to_json

    session = Session.open(bundle, format=fmt, threads=threads)
    result = session(_raw_input(text, task_input))
    if as_json:
        _print_json(
            {
                "value": to_json(result.value),
                "format": result.format,
                "timing": strict.plain(result.timing),
                "truncated": result.truncated,
            }
        )
        return
    click.echo(render.answer(to_json(result.value)))
    cut = "; the text was cut" if result.truncated else ""
    timing = result.timing
    if engines.emulates(session.artifact):
        click.echo(f"\n{result.format}: not the {session.artifact.delegate} itself, but what stands for it here{cut}.")
        return
    click.echo(
        f"\n{result.format}: {timing.inference_ms:.2f} ms for the first inference, "
        f"{timing.tokenize_ms:.2f} ms to tokenize{cut} ('edgellm bench' measures latency)."
    )


@cli.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@_FORMAT
@_DEVICE
@click.option("--threads", default=1, show_default=True, help="Compute threads of each engine.")
@click.option("--runs", type=int, help="Timed runs per artifact and length; 100 if left out.")
@click.option("--warmup", type=int, help="Untimed runs before them; 5 if left out.")
@click.option("--tokens", type=_Numbers(), help="Lengths to measure, special tokens included.")
@_JSON
def bench(
    bundles: tuple[str, ...], formats: tuple[str, ...], devices: tuple[str, ...], threads: int, runs: int | None,
    warmup: int | None, tokens: tuple[int, ...] | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure the latency of BUNDLE, or count its instructions on an emulated CPU.

    Several bundles are measured side by side: an int8 and an fp32 build of one model, for example.
    """
    from edgellm import benchmark, counting
    from edgellm.cli import render
    from edgellm.device import open_device
    from edgellm.runtime import Bundle

    opened = [Bundle.open(path) for path in bundles]
    where = [open_device(name) for name in dict.fromkeys(devices or ("host",))]
    counting.ensure_one_kind(where)
    result: benchmark.Benchmark | counting.Counted
    if where[0].emulated:
        if threads != 1 or warmup is not None:
            raise UsageError("--threads and --warmup have no use on an emulator: it counts warm runs on one thread.")
        result = counting.count(
            opened, where, formats=formats, runs=counting.DEFAULT_RUNS if runs is None else runs, tokens=tokens or ()
        )
        text = render.counted(result)
    else:
        if len(where) > 1:
            raise UsageError("One device is timed at a time.", hint="Name one --device.")
        result = benchmark.bench(
            opened, where[0], formats=formats, threads=threads, tokens=tokens or (),
            runs=benchmark.DEFAULT_RUNS if runs is None else runs,
            warmup=benchmark.DEFAULT_WARMUP if warmup is None else warmup,
        )  # fmt: skip
        text = render.benched(result)
    if as_json:
        _print_json(strict.plain(result))
    else:
        click.echo(text)


@cli.command()
@click.argument("bundle")
@_FORMAT
@_DEVICE
@click.option("--cases", type=click.IntRange(min=1), help="Golden cases to run; all if left out.")
@_JSON
def verify(bundle: str, formats: tuple[str, ...], devices: tuple[str, ...], cases: int | None, as_json: bool) -> None:
    """Check the hashes of BUNDLE, and its golden cases here or on other devices.

    What it finds on other devices is kept in the bundle's reports/.
    """
    from edgellm.cli import render
    from edgellm.device import open_device
    from edgellm.runtime import Bundle
    from edgellm.stages.report import write_verification
    from edgellm.stages.verify import verify_on

    opened = Bundle.open(bundle)
    where = [open_device(name) for name in dict.fromkeys(devices or ("host",))]
    slow = any(device.name != "host" for device in where) and not as_json

    def told(device: str, artifact: str) -> None:
        if slow:
            click.echo(f"ran {artifact} on {device}", err=True)

    results = verify_on(opened, where, formats=formats, cases=cases, told=told)
    if as_json:
        plain = [strict.plain(result) for result in results]
        ok = all(result.ok for result in results)
        _print_json(plain[0] if len(plain) == 1 else {"ok": ok, "devices": plain})
    else:
        click.echo("\n\n".join(render.verified(result) for result in results))
    for result in results:
        if result.device == "host":
            continue  # the build's own verdict of this machine is in the manifest
        try:
            write_verification(opened, result)
        except OSError as error:
            _complain(f"The report was not kept: {error.filename or bundle}: {error.strerror}.")
    if not all(result.ok for result in results):
        raise click.exceptions.Exit(5)


@cli.command()
@click.argument("bundle")
@_JSON
def inspect(bundle: str, as_json: bool) -> None:
    """Show what is in BUNDLE: signature, delegation, where the bytes are."""
    from edgellm.cli import render
    from edgellm.runtime import Bundle
    from edgellm.targets import load_target, target_names

    manifest = Bundle.open(bundle).manifest
    if as_json:
        _print_json(strict.plain(manifest))
    else:
        known = load_target(manifest.target) if manifest.target in target_names() else None
        click.echo(render.inspected(manifest, known))


@cli.command()
@click.argument("name", required=False)
@_JSON
def targets(name: str | None, as_json: bool) -> None:
    """List the targets, or show the one called NAME."""
    from edgellm.cli import render
    from edgellm.targets import load_target, target_names, targets_dir

    if name is not None and not as_json:
        target = load_target(name)
        click.echo((targets_dir() / f"{target.name}.toml").read_text(encoding="utf-8").rstrip())
        return
    items = [load_target(each) for each in ([name] if name else target_names())]
    if as_json:
        _print_json({"targets": strict.plain(items)})
    else:
        click.echo(render.targets(items))


@cli.command()
@click.argument("path", required=False)
@click.option("--target", help="What PATH has to fit; of a bundle, what it was built for if left out.")
@_JSON
def doctor(path: str | None, target: str | None, as_json: bool) -> None:
    """Say what is installed, what misses, and what is outside the versions tested together.

    With PATH, a native file, an artifact, a bundle or a folder of them: say whether the target can load it, without
    running it.
    """
    from edgellm.cli import render

    if path is not None:
        from edgellm.abi.examine import examine as examine_path

        examination = examine_path(path, target=target)
        click.echo(render.examined(examination)) if not as_json else _print_json(strict.plain(examination))
        if not examination.ok:
            raise click.exceptions.Exit(6)
        return
    if target is not None:
        raise UsageError("--target needs a PATH to compare with it.", hint="See 'edgellm doctor --help'.")
    from edgellm.doctor import examine

    result = examine()
    if as_json:
        _print_json(strict.plain(result))
    else:
        click.echo(render.health(result))
    if not result.ok:
        raise click.exceptions.Exit(4)


cli.add_command(distill_command.distill)
cli.add_command(evaluate_command.evaluate)
cli.add_command(prune_command.prune)
cli.add_command(runner_commands.runner)
cli.add_command(search_command.search)
cli.add_command(sensitivity_command.sensitivity)
cli.add_command(support_command.support)
cli.add_command(device_commands.devices)
cli.add_command(device_commands.device)


def main() -> NoReturn:
    """Run the command line; errors become one clear paragraph and an exit code of their kind."""
    try:
        code = cli(standalone_mode=False)
    except EdgellmError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        _complain("Interrupted.")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        log = _write_traceback()
        _complain(f"Internal error: {type(error).__name__}: {error}", f"The traceback is in {log}; please report it.")
        sys.exit(70)
    sys.exit(code if isinstance(code, int) else 0)


def _print_json(data: object) -> None:
    click.echo(json.dumps(data, ensure_ascii=False, allow_nan=False))


def _raw_input(text: str | None, task_input: str | None) -> str | dict[str, object]:
    """Return what the user gave: a text, or an object with the arguments of a task."""
    if (text is None) == (task_input is None):
        raise UsageError("Give either TEXT or --task-input.")
    if task_input is None:
        assert text is not None
        return text
    try:
        given = json.loads(task_input)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--task-input is no JSON: {error}.") from None
    if not isinstance(given, dict):
        raise UsageError("--task-input is no JSON object.", hint='For example: {"text": "...", "text_pair": "..."}')
    return given


def _complain(message: str, hint: str = "") -> None:
    click.echo(f"edgellm: {message}{' ' + hint if hint else ''}", err=True)


def _write_traceback() -> Path:
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="edgellm-", suffix=".log", delete=False, encoding="utf-8") as handle:
        traceback.print_exc(file=handle)
    return Path(handle.name)
