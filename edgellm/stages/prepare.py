"""Prepare: load the source in fp32 and rewrite the module so that every format gets a graph it can take.

Two modules come of one source: the reference, as its authors meant it, and the prepared one. `ensure_faithful`
compares them, padded, before anything is lowered.

The rewrites:
- attention in three dimensions (`bmm` over heads), which XNNPACK takes whole, instead of four;
- convolutions over single tokens as linears, which is what quantizers know;
- a finite additive mask. Hugging Face's masks padding with the lowest float; that one constant ruins whatever
  quantizes activations to 8 bits, while exp(-30) is 1e-13 already.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgellm.errors import EdgellmError, InputError
from edgellm.stages.pointwise import restate_pointwise
from edgellm.stages.source import SourceModel
from edgellm.tasks import load_task

if TYPE_CHECKING:
    from edgellm.core.signature import Feeds

MASKED = -30.0
"""Added to the attention score of padding."""

ATTENTION = "edgellm"
"""Name under which the rewritten attention is registered with transformers."""

TOLERANCE = 1e-4
"""Largest difference between prepared and reference outputs, relative to the largest reference value.

fp32 reassociation gives about 1e-6 on six layers."""


def reference(source: SourceModel) -> nn.Module:
    """Return the source in fp32 with the task's head, unchanged: what every artifact is compared with.

    Raises:
        InputError: it can't be loaded, or weights that it needs are missing.

    """
    return _wrap(source, _load(source))


@dataclass(frozen=True)
class Rewritten:
    """A prepared module.

    Attributes:
        module: takes int64 tensors [1, tokens] by name.
        finite_mask: whether its masks are finite already; where not, the traced graph has to be clamped.
        notes: what could not be rewritten, for the user.

    """

    module: nn.Module
    finite_mask: bool
    notes: tuple[str, ...]


def prepare(source: SourceModel) -> Rewritten:
    """Return the rewritten module. One whose attention can't be replaced keeps its own, and a note says so."""
    model = _load(source)
    reason = _replace_attention(model)
    restate_pointwise(model)
    notes = (f"The attention was not rewritten ({reason}), which costs speed.",) if reason else ()
    return Rewritten(_wrap(source, model), not reason, notes)


def ensure_faithful(
    reference: nn.Module, prepared: Callable[..., torch.Tensor], feeds: Sequence[Feeds], longest: int | None = None
) -> float:
    """Return the largest difference between two modules over padded and unpadded feeds, relative to the outputs.

    Padded, the prepared module has to give what the source gives unpadded, unless the source itself looks at padding
    (see `padding_effect`): then what the source gives padded.

    Args:
        reference: the source.
        prepared: the same, rewritten.
        feeds: to compare on.
        longest: tokens beyond which `prepared` takes none, padding included.

    Raises:
        EdgellmError: they differ by more than TOLERANCE: a rewrite does not fit this architecture.

    """
    worst = 0.0
    apart: Callable[..., float] = getattr(reference, "apart", _apart)
    with torch.no_grad():
        for item in feeds:
            inputs = to_tensors(item)
            padded = _padded(inputs, longest)
            alone, beside = reference(**inputs), reference(**padded)
            expected = alone if apart(alone, beside) <= TOLERANCE else beside
            for difference in (apart(alone, prepared(**inputs)), apart(expected, prepared(**padded))):
                worst = difference if not difference <= worst else worst  # max() would drop a NaN
    if not worst <= TOLERANCE:
        raise EdgellmError(
            f"The prepared module differs from the source by {worst:.1e} (relative; {TOLERANCE:.0e} is allowed): a rewrite "
            "does not fit this architecture.",
            hint="Please report it with the model's config.json.",
        )
    return worst


def padding_effect(reference: nn.Module, feeds: Sequence[Feeds], longest: int | None = None) -> float:
    """Return how much padding changes a source's own answers, relative to them: 1e-6 or so where it masks padding.

    Some architectures mix neighbouring tokens, padding among them (Fourier transforms, convolutions). Whether that is
    too much for artifacts that pad is the gate's to say.
    """
    worst = 0.0
    apart: Callable[..., float] = getattr(reference, "apart", _apart)
    with torch.no_grad():
        for item in feeds:
            inputs = to_tensors(item)
            worst = max(worst, apart(reference(**inputs), reference(**_padded(inputs, longest))))
    return worst


def _padded(inputs: dict[str, torch.Tensor], longest: int | None) -> dict[str, torch.Tensor]:
    tokens = inputs["input_ids"].shape[1]
    padding = min(7, (longest or tokens + 7) - tokens)
    return {name: nn.functional.pad(tensor, (0, padding)) for name, tensor in inputs.items()}


def _apart(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Return the largest difference relative to `expected`; of vectors per token, over those that both have.

    A module whose outputs are no such numbers has an `apart` of its own.
    """
    if got.dim() == 3:
        tokens = min(got.shape[1], expected.shape[1])
        got, expected = got[:, :tokens], expected[:, :tokens]
    return float((got - expected).abs().max()) / max(float(expected.abs().max()), 1e-6)


def to_tensors(feeds: Feeds) -> dict[str, torch.Tensor]:
    """Return feeds as tensors of their own memory."""
    return {name: torch.from_numpy(array.copy()) for name, array in feeds.items()}


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


def _wrap(source: SourceModel, model: nn.Module) -> nn.Module:
    return load_task(source.task).wrap(model, source.options).eval().requires_grad_(False)


def _load(source: SourceModel) -> nn.Module:
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

    assert source.folder is not None
    try:
        config = transformers.AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
        cls = _class_of(config, source.task)
    except (KeyError, ValueError, OSError) as error:
        raise InputError(
            f"transformers {transformers.__version__} can't load {source.name} for {source.task}: {_first_line(error)}."
        ) from None
    try:
        model, info = _pruned(cls, _shapes(source.folder)).from_pretrained(
            source.folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            attn_implementation="sdpa" if cls._supports_sdpa else "eager", output_loading_info=True,
        )  # fmt: skip
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{source.name} can't be loaded: {_first_line(error)}.") from None
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


def _shapes(folder: str) -> dict[str, tuple[int, ...]]:
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


def _replace_attention(model: nn.Module) -> str:
    """Replace the attention, or make it eager where the architecture computes something that ours does not.

    Returns:
        why it was not replaced, or an empty string.

    """
    if not hasattr(model, "set_attn_implementation"):
        return f"{type(model).__name__} is no transformers model"
    _register()
    try:
        with _strictly(model):
            model.set_attn_implementation(ATTENTION)
            ids = torch.ones((1, 5), dtype=torch.long)
            with torch.no_grad():
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        model.set_attn_implementation("eager")
        return _first_line(error)
    return ""


@contextmanager
def _strictly(model: nn.Module) -> Iterator[None]:
    """Make an attention implementation that the architecture would ignore an error."""
    calls = _CALLS[0]
    yield
    if _CALLS[0] == calls:
        raise NotImplementedError(f"{type(model).__name__} does not use the attention interface")


_CALLS = [0]


def _register() -> None:
    """Make the rewritten attention and its mask known to transformers. Idempotent."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, eager_mask

    def mask(
        batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Any],
        attention_mask: torch.Tensor | None = None, dtype: torch.dtype = torch.float32, **kwargs: Any,
    ) -> torch.Tensor | None:  # fmt: skip
        if mask_function is bidirectional_mask_function and attention_mask is not None:
            return ((1.0 - attention_mask.to(dtype)) * MASKED).unsqueeze(1)
        full = eager_mask(
            batch_size, q_length, kv_length, mask_function=mask_function, attention_mask=attention_mask, dtype=dtype,
            **{**kwargs, "allow_is_bidirectional_skip": False},
        )  # fmt: skip
        return None if full is None else full.clamp(min=MASKED)[:, 0]

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, mask)


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0, **kwargs: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Scaled dot-product attention of one text, in three dimensions.

    Args:
        module: the attention layer; unused.
        query: [1, heads, tokens, head width]; key and value alike, with as many or fewer heads.
        attention_mask: added to the scores, [1 or heads, 1 or tokens, tokens]; with a batch of 1 before that, where the
            model made it.
        scaling: of the scores; the inverse root of the head width if None.
        kwargs: a `position_bias` [1, heads, tokens, tokens] is added to the scores, as T5 has it.

    Returns:
        [1, tokens, heads, head width], and no weights.

    """
    _CALLS[0] += 1
    bias = kwargs.pop("position_bias", None)
    # Positions are in the queries and keys already; who takes them here looks for texts packed into one row.
    extra = [name for name, item in kwargs.items() if isinstance(item, torch.Tensor) and name != "position_ids"]
    if extra or kwargs.get("softcap") is not None:
        raise NotImplementedError(f"attention with {', '.join(extra) or 'softcap'}")
    _, heads, tokens, width = query.shape
    if key.shape[1] != heads:
        key = key.repeat_interleave(heads // key.shape[1], dim=1)
        value = value.repeat_interleave(heads // value.shape[1], dim=1)
    q = query.reshape(heads, tokens, width) * (width**-0.5 if scaling is None else scaling)
    k = key.reshape(heads, tokens, width)
    v = value.reshape(heads, tokens, width)
    scores = torch.bmm(q, k.transpose(1, 2))
    if isinstance(bias, torch.Tensor):
        scores = scores + bias[0]
    if attention_mask is not None and attention_mask.dim() == 4:
        attention_mask = attention_mask[0].clamp(min=MASKED)  # made by the model itself, with the lowest float
    if attention_mask is not None:
        scores = scores + attention_mask
    mixed = torch.bmm(torch.softmax(scores, dim=-1), v)
    return mixed.transpose(0, 1).reshape(1, tokens, heads, width), None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
