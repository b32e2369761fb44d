"""One pass against token by token: quality on the test words, and time of a word, on one engine with one thread.

Both run in ONNX Runtime in this process, from text to text: each says all words, round by round, and each word in turns. What
slows this machine slows both. In a row, weights stay in the processor's caches from word to word; in turns, what the others
used is in their place, as after an app's other work. A pass reads all of its weights once, a decoder its own again and again.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from edgellm.errors import EdgellmError, UsageError

TIMED, ROUNDS = 200, 7
"""Test words that are timed, and how often; a word's time is the median."""

LENGTHS = ((1, 5), (6, 8), (9, 11), (12, 20))
"""Letters of short and of long words, whose times are given apart: token by token, a long word takes more passes."""

PROVEN = 50
"""Words on which the baseline has to say what transformers' `generate` makes its model say."""

Say = Callable[[str], str]


def read_words(path: Path) -> dict[str, list[list[str]]]:
    """Return each word's pronunciations as phones."""
    from autoregressive import read_words as pairs

    words: dict[str, list[list[str]]] = {}
    for pair in pairs(path):
        words.setdefault(pair.text, []).append(pair.target.split())
    return words


def without_stress(phones: Sequence[str]) -> list[str]:
    """Return phones as published figures count them."""
    return [phone.rstrip("012") for phone in phones]


def error_rates(say: Say, words: dict[str, list[list[str]]], *, stress: bool) -> tuple[float, float]:
    """Return the shares of wrong words and of wrong phones in percent, the closest listed pronunciation counting."""
    from rapidfuzz.distance import Levenshtein

    kept = list if stress else without_stress
    wrong = edited = length = 0
    for word, ways in words.items():
        said = kept(say(word).split())
        nearest = min((kept(way) for way in ways), key=lambda way: Levenshtein.distance(way, said))
        distance = Levenshtein.distance(nearest, said)
        wrong += distance > 0
        edited += distance
        length += len(nearest)
    return 100 * wrong / len(words), 100 * edited / length


def race(sayers: dict[str, Say], words: Sequence[str], *, in_turns: bool) -> dict[str, dict[str, float]]:
    """Return each one's median time of each word in milliseconds; turns are taken by the word, or by all words."""
    times: dict[str, dict[str, list[float]]] = {name: {word: [] for word in words} for name in sayers}
    by_words = [(name, word) for name in sayers for word in words]
    order = [(name, word) for word in words for name in sayers] if in_turns else by_words
    for _ in range(ROUNDS):
        for name, word in order:
            start = time.perf_counter()
            sayers[name](word)
            times[name][word].append((time.perf_counter() - start) * 1e3)
    return {name: {word: statistics.median(own) for word, own in each.items()} for name, each in times.items()}


def by_length(times: dict[str, dict[str, float]], width: int) -> str:
    """Return a table of each one's median time of words of a length."""
    rows = [f"{'ms by letters':<{width}}" + "".join(f"{f'{low} to {high}':>10}" for low, high in LENGTHS)]
    for name, own in times.items():
        row = f"{name:<{width}}"
        for low, high in LENGTHS:
            found = [ms for word, ms in own.items() if low <= len(word) <= high]
            row += f"{statistics.median(found):>10.3f}" if found else f"{'-':>10}"
        rows.append(row)
    return "\n".join(rows)


def token_by_token(folder: Path, work: Path, words: Sequence[str], *, int8: bool) -> Say:
    """Return what an autoregressive model says to a word; in fp32, it is proven on the first words to be what the model says."""
    import torch
    from autoregressive import open_tokenizer
    from token_by_token import MOST, TokenByToken, export
    from transformers import BartForConditionalGeneration

    torch.set_num_threads(1)
    model = BartForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    export(model, work, int8=int8)
    opened, read = TokenByToken.open(work, model), open_tokenizer(folder).backend_tokenizer
    for word in () if int8 else words[:PROVEN]:
        ids = read.encode(word).ids
        with torch.no_grad():
            made = model.generate(
                torch.tensor([ids]), num_beams=1, do_sample=False, max_new_tokens=MOST, forced_eos_token_id=None
            )[0, 1:].tolist()
        wanted, said = ([id for id in each if id != model.config.eos_token_id] for each in (made, opened(ids)))
        if said != wanted:
            raise EdgellmError(
                f"{folder} token by token says {said} to '{word}', and {wanted} in transformers.",
                hint="token_by_token.py does not fit this model; its times and error rates would be another model's.",
            )
    return lambda word: str(read.decode(opened(read.encode(word).ids)))


@click.command()
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--against", multiple=True, type=click.Path(path_type=Path, exists=True),
    help="Folder that autoregressive.py wrote (may be repeated); runs in fp32 and in int8.",
)  # fmt: skip
@click.option(
    "--words", type=click.Path(path_type=Path), default=Path("build/pronunciation/test.tsv"), show_default=True
)
@click.option("--limit", type=click.IntRange(min=1), help="Words to score; all if left out.")
def main(bundles: tuple[Path, ...], against: tuple[Path, ...], words: Path, limit: int | None) -> None:
    """Score all artifacts of BUNDLES, and hold the ONNX ones against models that answer token by token."""
    from edgellm.runtime import Bundle
    from edgellm.runtime.machine import machine

    names = [path.resolve().name for path in (*bundles, *against)]
    if not names:
        raise UsageError("There is nothing to score.", hint="Name a bundle, or a model with --against.")
    if len(names) > len(set(names)):
        raise UsageError("Two folders have one name, and the table could not tell them apart.", hint="Rename one.")
    found = dict(list(read_words(words).items())[:limit])
    timed = list(found)[:TIMED]
    with tempfile.TemporaryDirectory() as work:
        sayers: dict[str, Say] = {}
        for path in bundles:
            for artifact in Bundle.open(path).manifest.artifacts:
                sayers[f"{path.resolve().name} {artifact.id}"] = one_pass(path, artifact.id)
        for folder in against:
            for int8 in (False, True):
                name = f"{folder.resolve().name} {'int8' if int8 else 'fp32'}, token by token"
                sayers[name] = token_by_token(folder, Path(work) / name, timed, int8=int8)
        runners = {name: say for name, say in sayers.items() if _on_onnx(name)}
        row, turns = (race(runners, timed, in_turns=in_turns) for in_turns in (False, True))
        width = max(map(len, sayers))
        click.echo(
            f"{'':<{width}}{'WER':>7}{'PER':>7}{'with stress':>13}{'':>7}{'ms':>8}{'ratio':>7}{'in turns':>10}{'ratio':>7}"
        )
        for name, say in sayers.items():
            plain, stressed = (error_rates(say, found, stress=stress) for stress in (False, True))
            rates = f"{plain[0]:>7.2f}{plain[1]:>7.2f}{stressed[0]:>13.2f}{stressed[1]:>7.2f}"
            click.echo(
                f"{name:<{width}}{rates}" + (_time(row, name, 8) + _time(turns, name, 10) if name in row else "")
            )
    click.echo("\n" + by_length(row, width))
    click.echo(
        f"\n{len(found)} words, the closest of the listed pronunciations; time of {len(timed)} words from text to text, median "
        f"of {ROUNDS} rounds, ONNX Runtime, 1 thread, on {machine()}."
    )


def one_pass(bundle: Path, artifact: str) -> Say:
    """Return what an artifact says to a word."""
    from edgellm.runtime import Session

    session = Session.open(bundle, format=artifact, threads=1)
    return lambda word: str(session(word).value["text"])  # type: ignore[index]


def _time(times: dict[str, dict[str, float]], name: str, width: int) -> str:
    """Return a median, and its ratio to the first one's."""
    medians = {each: statistics.median(own.values()) for each, own in times.items()}
    return f"{medians[name]:>{width}.3f}{medians[name] / next(iter(medians.values())):>7.2f}"


def _on_onnx(name: str) -> bool:
    """Tell whether ONNX Runtime runs it: what another engine runs is no race."""
    return name.endswith("token by token") or name.rpartition(" ")[2].startswith("onnx")


if __name__ == "__main__":
    try:
        main()
    except EdgellmError as error:
        click.echo(f"race: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
