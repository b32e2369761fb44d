"""Load: a source model in fp32, from a folder or a function, and nothing of it at random."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgellm.errors import InputError, first_line
from edgellm.stages.source import SourceModel
from edgellm.tasks import load_task


def describe_factory(factory: str) -> dict[str, Any]:
    """Return config, number of parameters and digest of the module that a factory returns."""
    module = _call_factory(factory)
    config = getattr(module, "config", None)
    facts: dict[str, Any] = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    table = next((m for m in module.modules() if isinstance(m, nn.Embedding)), None)
    if table is not None:
        facts.setdefault("vocab_size", table.num_embeddings)
        facts.setdefault("hidden_size", table.embedding_dim)
    takes = inspect.signature(module.forward).parameters
    if "token_type_ids" not in takes:
        facts["type_vocab_size"] = 0
    return {
        "config": {key: value for key, value in facts.items() if _is_plain(value)},
        "parameters": sum(p.numel() for p in module.parameters()),
        "sha256": _module_digest(module),
    }


def _module_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a module's structure, weights and source files."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    files = {inspect.getsourcefile(type(m)) for m in module.modules() if type(m).__module__ != "builtins"}
    for file in sorted(name for name in files if name and "site-packages" not in name):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool, dict, list))


def load(source: SourceModel) -> nn.Module:
    """Return the source's model in fp32.

    Raises:
        InputError: it can't be loaded, or weights that it needs are missing.

    """
    if source.factory is not None:
        model = _call_factory(source.factory)
        if _module_digest(model) != source.module_sha256:
            raise InputError(
                f"{source.factory} returned another module than the first time it was called.",
                hint="Load its weights from a file, or seed them: every format must be built from the same ones.",
            )
        return model.float()
    return _from_pretrained(source)


def _call_factory(factory: str) -> nn.Module:
    module_name, _, function = factory.partition(":")
    # As `python -m` would: the user's own module lies in the folder they stand in.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        model = getattr(importlib.import_module(module_name), function)()
    except (ImportError, AttributeError) as error:
        raise InputError(f"{factory} can't be imported: {error}.") from None
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise InputError(f"{factory} failed with {type(error).__name__}: {error}.") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{factory} returned {type(model).__name__}, not an nn.Module.")
    return model.eval()


def _from_pretrained(source: SourceModel) -> nn.Module:
    """Load a folder with transformers: safetensors only, no code from the folder, nothing initialized at random."""
    import transformers

    from edgellm.models import ctc, mask_predict

    assert source.folder is not None
    ctc.register()
    mask_predict.register()
    try:
        config = transformers.AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
        cls = _class_of(config, source.task)
    except (KeyError, ValueError, OSError) as error:
        raise InputError(
            f"transformers {transformers.__version__} can't load {source.name} for {source.task}: {first_line(error)}."
        ) from None
    try:
        model, info = _pruned(cls, shapes(source.folder)).from_pretrained(
            source.folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            attn_implementation="sdpa" if cls._supports_sdpa else "eager", output_loading_info=True,
        )  # fmt: skip
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{source.name} can't be loaded: {first_line(error)}.") from None
    # A pooler that the task does not use may be missing; anything else would be random.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key or source.task != "feature-extraction")
    if missing:
        raise InputError(
            f"{source.name} has no weights for {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}; "
            "they would be random.",
            hint=f"Was it trained for {source.task}?",
        )
    assert isinstance(model, nn.Module)
    return model


def _class_of(config: Any, task: str) -> Any:
    """Return transformers' class for a configuration and a task.

    The auto class of a family with a decoder is the whole of it, whose last hidden state is the decoder's: what a
    feature-extraction wants is its encoder, where transformers has that as a class.

    Raises:
        KeyError: there is none.
        InputError: the encoder is not to be had without the decoder.

    """
    import transformers

    own = str((config.architectures or [""])[0])
    auto = load_task(task).auto_class()
    if auto == "AutoModel" and (config.is_encoder_decoder or own.endswith("EncoderModel")):
        whole = transformers.AutoModel._model_mapping[type(config)].__name__
        cls = getattr(transformers, f"{whole.removesuffix('Model')}EncoderModel", None)
        if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
            raise InputError(
                f"{whole} has an encoder and a decoder, and transformers has no class for its encoder alone.",
                hint="A function that returns the encoder can be built: package.module:function.",
            )
        return cls
    cls = getattr(transformers, auto)._model_mapping[type(config)]
    return cls[0] if isinstance(cls, (list, tuple)) else cls


def shapes(folder: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a folder's safetensors files."""
    from safetensors import safe_open

    shapes = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(str(path), framework="np") as tensors:
            for key in tensors.keys():  # noqa: SIM118  not a dict
                shapes[key] = tuple(tensors.get_slice(key).get_shape())
    return shapes


def _pruned(cls: Any, shapes: dict[str, tuple[int, ...]]) -> Any:
    """Return `cls`, with linears as wide as the checkpoint's.

    Structured pruning leaves attention and feed-forward matrices smaller than the configuration says, and each layer
    by its own amount; transformers would refuse the shapes.
    """
    prefix = getattr(cls, "base_model_prefix", "") + "."

    def build(self: nn.Module, config: object, *args: object, **kwargs: object) -> None:
        cls.__init__(self, config, *args, **kwargs)
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            keys = (f"{name}.weight", f"{prefix}{name}.weight", f"{name.removeprefix(prefix)}.weight")
            shape = next((shapes[key] for key in keys if key in shapes), None)
            if shape and len(shape) == 2 and shape != tuple(module.weight.shape):
                module.out_features, module.in_features = shape
                module.weight = nn.Parameter(module.weight.new_empty(shape))
                if module.bias is not None:
                    module.bias = nn.Parameter(module.bias.new_empty(shape[0]))

    return type(cls.__name__, (cls,), {"__init__": build, "__module__": cls.__module__})
