"""Real bundles in milliseconds: a WordPiece tokenizer, an ONNX model of one table, golden cases computed with numpy.

`tiny_bundle` writes a bundle that passes every check; its parameters plant one fault each. `reseal` makes hashes
right again after a test has changed a file, for faults that a hash can't catch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgellm.core import strict
from edgellm.core.agreement import Agreement, AgreementMatrix
from edgellm.core.delegation import MULTIPLY_ACCUMULATES, Delegation, Fallback
from edgellm.core.manifest import Artifact, BytesOf, FileEntry, Manifest, ModelInfo, TaskOptions
from edgellm.core.scheme import DELEGATES
from edgellm.core.signature import TOKENS, InputSpec, OutputSpec, Signature
from edgellm.runtime.bundle import Bundle, to_json
from edgellm.runtime.tokenizer import Tokenizer as RuntimeTokenizer
from edgellm.tasks import load_task

LABELS = ("negative", "neutral", "positive")
TEXTS = (
    "The kettle is on.",
    "lighthouse keeper",
    "",
    "Where did you put the red boots?",
    "12 eggs, 300 g flour; stir!",
    "naïve café, 20 °C",
    "NUL \0 inside",
    "fish 🐟 and chips 🍟",
    "Это не словарь.",
    "a",
    "the river rose and the road was gone by noon",
    "boots boots boots",
)
_WORDS = (
    "the",
    "a",
    "is",
    "on",
    "and",
    "by",
    "was",
    "where",
    "did",
    "you",
    "put",
    "red",
    "boots",
    "river",
    "road",
    "rose",
    "gone",
    "noon",
    "fish",
    "chips",
    "kettle",
    "keeper",
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tiny_tokenizer() -> Tokenizer:
    """Return a lower-casing WordPiece tokenizer that adds [CLS] and [SEP], as BERT's do."""
    tokens = [*_SPECIAL, *_WORDS, *_LETTERS, *(f"##{c}" for c in _LETTERS), *".,;:!?°"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """A table of embeddings, their masked mean, and for a classifier one matmul; in numpy and in ONNX."""

    table: NDArray[np.float32]
    head: NDArray[np.float32] | None
    pooled: bool

    @classmethod
    def random(cls, rows: int, width: int, labels: int, pooled: bool) -> TinyModel:
        rng = np.random.default_rng(7)
        head = rng.normal(size=(width, labels)).astype(np.float32) if labels else None
        return cls(rng.normal(size=(rows, width)).astype(np.float32), head, pooled)

    def perturbed(self, noise: float) -> TinyModel:
        added = np.random.default_rng(8).normal(scale=noise, size=self.table.shape).astype(np.float32)
        return dataclasses.replace(self, table=self.table + added)

    def __call__(self, feeds: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        hidden = self.table[feeds["input_ids"]]
        if not self.pooled:
            return hidden
        mask = feeds["attention_mask"].astype(np.float32)
        mean = (mask[:, None] @ hidden)[:, 0] / mask.sum(1, keepdims=True)
        return mean if self.head is None else mean @ self.head

    def onnx(self, output: str, opset: int = 20, ir_version: int = 9) -> bytes:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        shape = [1, TOKENS]
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("input_ids", "attention_mask")]
        constants = [numpy_helper.from_array(self.table, "table")]
        if not self.pooled:
            nodes = [helper.make_node("Gather", ["table", "input_ids"], [output])]
            width: list[Any] = [1, TOKENS, self.table.shape[1]]
        else:
            axis = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
            constants.append(axis)
            last = output if self.head is None else "mean"
            nodes = [
                helper.make_node("Gather", ["table", "input_ids"], ["hidden"]),
                helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
                helper.make_node("Unsqueeze", ["mask", "axis"], ["row"]),
                helper.make_node("MatMul", ["row", "hidden"], ["sums"]),
                helper.make_node("Squeeze", ["sums", "axis"], ["sum"]),
                helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
                helper.make_node("Div", ["sum", "count"], [last]),
            ]
            width = [1, self.table.shape[1]]
            if self.head is not None:
                constants.append(numpy_helper.from_array(self.head, "head"))
                nodes.append(helper.make_node("MatMul", ["mean", "head"], [output]))
                width = [1, self.head.shape[1]]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, width)]
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
        model = helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def tiny_bundle(
    path: Path,
    task: str = "feature-extraction",
    *,
    texts: Sequence[str] = TEXTS,
    max_tokens: int = 32,
    min_tokens: int = 2,
    width: int = 8,
    pooling: str = "mean",
    noise: float = 0.0,
    min_agreement: float = 0.99,
    others: Sequence[str] = (),
    change: Callable[[dict[str, Any]], None] = lambda manifest: None,
) -> Bundle:
    """Write a bundle to `path` and open it.

    Args:
        path: a folder that does not exist yet.
        task: "feature-extraction" or "text-classification".
        texts: of the golden cases.
        max_tokens, min_tokens, width, pooling, min_agreement: as in the manifest.
        noise: standard deviation of what is added to the artifact's weights (they are normal, of deviation 1), but not
            to the golden cases: from 0.5 on, the artifact disagrees with them.
        others: formats listed before ONNX, whose files hold bytes that no engine loads.
        change: edits the manifest's JSON before it is written; paths and hashes are right until it does.

    """
    plugin = load_task(task)
    classifier = task == "text-classification"
    pooling = "none" if classifier else pooling
    options = TaskOptions(labels=LABELS, scores="softmax") if classifier else TaskOptions(pooling=pooling)
    output = "logits" if classifier else "embedding"
    tokenizer = tiny_tokenizer()
    rows = tokenizer.get_vocab_size()
    source = TinyModel.random(rows, width, len(LABELS) if classifier else 0, classifier or pooling != "none")
    path.mkdir(parents=True)
    (path / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (path / "README.md").write_text("# tiny\n", encoding="utf-8")
    runtime = RuntimeTokenizer(path / "tokenizer.json", max_tokens)
    with (path / "golden.jsonl").open("w", encoding="utf-8") as lines:
        for text in texts:
            encodings = plugin.encode(text, runtime, options)
            ids = np.array([encodings[0].ids], dtype=np.int64)
            feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            outputs = {output: source(feeds)}
            value = plugin.decode(text, encodings, [outputs], options, runtime)
            case = {"input": text, "feeds": [feeds], "outputs": [outputs], "value": value}
            lines.write(json.dumps(to_json(case), ensure_ascii=False) + "\n")
    (path / "model-fp32.onnx").write_bytes((source.perturbed(noise) if noise else source).onnx(output))
    for other in others:
        (path / f"model-fp32.{other}").write_bytes(f"no {other} model".encode())

    last = len(LABELS) if classifier else width
    shape = (1, TOKENS, last) if pooling == "none" and not classifier else (1, last)
    inputs = (
        InputSpec("input_ids", "int64", (1, TOKENS), rows, 0),
        InputSpec("attention_mask", "int64", (1, TOKENS), 2, 0),
    )
    signature = Signature(inputs, (OutputSpec(output, "float32", shape),), min_tokens=min_tokens)
    artifacts = tuple(_artifact(path, fmt, signature, plugin.METRIC, len(texts)) for fmt in (*others, "onnx"))
    names = ("source", *(artifact.id for artifact in artifacts))
    manifest = Manifest(
        schema_version=1,
        task=task,
        task_options=options,
        target="linux-x86_64",
        model=ModelInfo("tiny", "ab" * 32, source.table.size, None),
        tools={"onnx": "1.23.0"},
        max_tokens=max_tokens,
        min_agreement=min_agreement,
        files=_files(path),
        artifacts=artifacts,
        matrix=AgreementMatrix(names, tuple((1.0,) * len(names) for _ in names)),
    )
    data = strict.plain(manifest)
    assert isinstance(data, dict)
    change(data)
    (path / "manifest.json").write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
    return Bundle.open(path)


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of a bundle's manifest in place."""
    file = path / "manifest.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")


def reseal(path: Path) -> None:
    """Make sizes and hashes of the manifest right for the files as they are now."""
    entries = {entry.path: entry for entry in _files(path)}

    def change(data: dict[str, Any]) -> None:
        data["files"] = strict.plain(tuple(entries.values()))
        for artifact in data["artifacts"]:
            entry = entries[artifact["file"]]
            artifact["sha256"], artifact["bytes"] = entry.sha256, entry.bytes

    edit_manifest(path, change)


def _artifact(path: Path, fmt: str, signature: Signature, metric: str, cases: int) -> Artifact:
    file = path / f"model-fp32.{fmt}"
    size = file.stat().st_size
    return Artifact(
        id=f"{fmt}-fp32",
        format=fmt,
        file=file.name,
        sha256=_digest(file),
        bytes=size,
        scheme="fp32",
        delegate=DELEGATES[fmt],
        signature=signature,
        session_options={},
        delegation=Delegation(
            "cpu", None, 6, 1, 8.0, 0.0, MULTIPLY_ACCUMULATES, (Fallback("Gather", 1, "no reason", 0.0),)
        ),
        contents=(BytesOf("graph and metadata", size),),
        agreement=Agreement(metric, 1.0, 1.0, cases, TEXTS[0], "host"),
    )


def _files(path: Path) -> tuple[FileEntry, ...]:
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    listed = [name for name in names if name != "manifest.json" and not name.startswith("reports/")]
    return tuple(FileEntry(name, (path / name).stat().st_size, _digest(path / name)) for name in listed)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
