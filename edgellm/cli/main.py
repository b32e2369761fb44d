"""`edgellm`: run, bench, verify, inspect, targets, doctor; the other commands have files beside this one.

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
from edgellm.cli import build as build_command
from edgellm.cli import device as device_commands
from edgellm.cli import distill as distill_command
from edgellm.cli import evaluate as evaluate_command
from edgellm.cli import optimize as optimize_command
from edgellm.cli import prune as prune_command
from edgellm.cli import runner as runner_commands
from edgellm.cli import search as search_command
from edgellm.cli import sensitivity as sensitivity_command
from edgellm.cli import support as support_command
from edgellm.cli.options import DEVICE, FORMAT, JSON, Numbers, print_json
from edgellm.core import strict
from edgellm.errors import EdgellmError, UsageError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(edgellm.__version__, prog_name="edgellm")
def cli() -> None:
    """Lower PyTorch transformers to int8 artifacts that provably give the same answers, and run them on the device."""


@cli.command()
@click.argument("bundle")
@click.argument("text", required=False)
@click.option("--task-input", metavar="JSON", help="The task's arguments in place of TEXT, as JSON.")
@click.option("--format", "fmt", help="A format; the first whose engine is installed if left out.")
@click.option("--threads", default=1, show_default=True, help="Compute threads.")
@JSON
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
        print_json(
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
@FORMAT
@DEVICE
@click.option("--threads", default=1, show_default=True, help="Compute threads of each engine.")
@click.option("--runs", type=int, help="Timed runs per artifact and length; 100 if left out.")
@click.option("--warmup", type=int, help="Untimed runs before them; 5 if left out.")
@click.option("--tokens", type=Numbers(), help="Lengths to measure, special tokens included.")
@JSON
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
        print_json(strict.plain(result))
    else:
        click.echo(text)


@cli.command()
@click.argument("bundle")
@FORMAT
@DEVICE
@click.option("--cases", type=click.IntRange(min=1), help="Golden cases to run; all if left out.")
@JSON
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
        print_json(plain[0] if len(plain) == 1 else {"ok": ok, "devices": plain})
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
@JSON
def inspect(bundle: str, as_json: bool) -> None:
    """Show what is in BUNDLE: signature, delegation, where the bytes are."""
    from edgellm.cli import render
    from edgellm.runtime import Bundle
    from edgellm.targets import load_target, target_names

    manifest = Bundle.open(bundle).manifest
    if as_json:
        print_json(strict.plain(manifest))
    else:
        known = load_target(manifest.target) if manifest.target in target_names() else None
        click.echo(render.inspected(manifest, known))


@cli.command()
@click.argument("name", required=False)
@JSON
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
        print_json({"targets": strict.plain(items)})
    else:
        click.echo(render.targets(items))


@cli.command()
@click.argument("path", required=False)
@click.option("--target", help="What PATH has to fit; of a bundle, what it was built for if left out.")
@JSON
def doctor(path: str | None, target: str | None, as_json: bool) -> None:
    """Say what is installed, what misses, and what is outside the versions tested together.

    With PATH, a native file, an artifact, a bundle or a folder of them: say whether the target can load it, without
    running it.
    """
    from edgellm.cli import render

    if path is not None:
        from edgellm.abi.examine import examine as examine_path

        examination = examine_path(path, target=target)
        click.echo(render.examined(examination)) if not as_json else print_json(strict.plain(examination))
        if not examination.ok:
            raise click.exceptions.Exit(6)
        return
    if target is not None:
        raise UsageError("--target needs a PATH to compare with it.", hint="See 'edgellm doctor --help'.")
    from edgellm.doctor import examine

    result = examine()
    if as_json:
        print_json(strict.plain(result))
    else:
        click.echo(render.health(result))
    if not result.ok:
        raise click.exceptions.Exit(4)


cli.add_command(build_command.build)
cli.add_command(distill_command.distill)
cli.add_command(evaluate_command.evaluate)
cli.add_command(optimize_command.optimize)
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
