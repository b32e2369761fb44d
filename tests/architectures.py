"""The matrix of architectures: each built at a tiny random size in three formats.

    python -m tests.architectures                      all of them
    python -m tests.architectures --only T5 --format onnx
    python -m tests.architectures --write              and keep each row in edgellm/support.json as it comes

A cell is a build of its own kind: `edgellm build` of one architecture in all formats, or format by format where that
fails, from raw text and with the default gate. Two architectures are built at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgellm import support
from edgellm.backends import TOOLS
from edgellm.cli.support import supported
from edgellm.core import strict
from edgellm.core.scheme import PORTABLE
from edgellm.tasks import load_task
from edgellm.texts import default_texts
from tests.vocabularies import KINDS, WRITERS

TARGET = "linux-x86_64"
SCHEME = "int8-dynamic"
GATE = 0.99
DEVIATION = 0.1
_SIDE_BY_SIDE = 2
_NICE = 10

_BERT: Mapping[str, object] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64,
}  # fmt: skip
_OFFSET: Mapping[str, object] = {**_BERT, "max_position_embeddings": 66}
_T5: Mapping[str, object] = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}


@dataclass(frozen=True)
class Architecture:
    """One row.

    Attributes:
        name: for people.
        model: class of transformers.
        tokenizer: key of `tests.vocabularies.WRITERS`.
        config: of the class's configuration, beside the vocabulary.
        listed: whether edgellm promises it; the others are tried to see what becomes of them.

    """

    name: str
    model: str
    tokenizer: str
    config: Mapping[str, object] = field(default_factory=lambda: _BERT)
    listed: bool = True


LISTED = (
    Architecture("BERT", "BertModel", "wordpiece"),
    Architecture("DistilBERT", "DistilBertModel", "wordpiece", {
        "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": 64}),
    Architecture("RoBERTa", "RobertaModel", "bpe", {**_OFFSET, "type_vocab_size": 1}),
    Architecture("XLM-RoBERTa", "XLMRobertaModel", "unigram", {**_OFFSET, "type_vocab_size": 1}),
    Architecture("ELECTRA", "ElectraModel", "wordpiece", {**_BERT, "embedding_size": 32}),
    Architecture("ALBERT", "AlbertModel", "unigram-typed", {**_BERT, "embedding_size": 32}),
    Architecture("MobileBERT", "MobileBertModel", "wordpiece", {
        **_BERT, "embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2}),
    Architecture("MPNet", "MPNetModel", "wordpiece-fairseq", _OFFSET),
    Architecture("DeBERTa-v2/v3", "DebertaV2Model", "unigram-typed", {
        **_BERT, "relative_attention": True, "position_buckets": 64, "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}),
    Architecture("ModernBERT", "ModernBertModel", "bpe", {
        **_BERT, "num_hidden_layers": 3, "local_attention": 16}),
    Architecture("CamemBERT", "CamembertModel", "unigram", {**_OFFSET, "type_vocab_size": 1}),
    Architecture("T5 encoder", "T5EncoderModel", "unigram-ending", _T5),
    Architecture("SqueezeBERT", "SqueezeBertModel", "wordpiece", {**_BERT, "embedding_size": 64}),
)  # fmt: skip
"""What edgellm promises, in the order in which its documents name them."""

_XLM: Mapping[str, object] = {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}

OTHERS = tuple(dataclasses.replace(row, listed=False) for row in (
    Architecture("BigBird", "BigBirdModel", "unigram-typed", {**_BERT, "block_size": 8, "num_random_blocks": 1}),
    Architecture("ConvBERT", "ConvBertModel", "wordpiece", {**_BERT, "embedding_size": 64}),
    Architecture("Data2VecText", "Data2VecTextModel", "bpe", {**_OFFSET, "type_vocab_size": 1}),
    Architecture("DeBERTa", "DebertaModel", "bpe", {
        **_BERT, "relative_attention": True, "max_relative_positions": 16, "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False}),
    Architecture("ERNIE", "ErnieModel", "wordpiece"),
    Architecture("EuroBERT", "EuroBertModel", "bpe", {**_BERT, "num_key_value_heads": 2}),
    Architecture("FlauBERT", "FlaubertModel", "bpe", _XLM),
    Architecture("FNet", "FNetModel", "unigram-typed", {
        k: v for k, v in _BERT.items() if k != "num_attention_heads"}),
    Architecture("Funnel", "FunnelModel", "wordpiece", {
        "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "block_sizes": [1, 1], "num_decoder_layers": 1}),
    Architecture("GTE", "GteModel", "unigram"),
    Architecture("I-BERT", "IBertModel", "bpe", {**_OFFSET, "type_vocab_size": 1}),
    Architecture("Jina embeddings v3", "JinaEmbeddingsV3Model", "unigram"),
    Architecture("LayoutLM", "LayoutLMModel", "wordpiece"),
    Architecture("Longformer", "LongformerModel", "bpe", {**_OFFSET, "type_vocab_size": 1, "attention_window": 8}),
    Architecture("Megatron-BERT", "MegatronBertModel", "wordpiece"),
    Architecture("MRA", "MraModel", "bpe", {**_BERT, "type_vocab_size": 1}),
    Architecture("mT5 encoder", "MT5EncoderModel", "unigram-ending", _T5),
    Architecture("Nomic BERT", "NomicBertModel", "wordpiece"),
    Architecture("Nystromformer", "NystromformerModel", "unigram-typed", {
        **_BERT, "num_landmarks": 64, "segment_means_seq_len": 64, "conv_kernel_size": 5}),
    Architecture("RemBERT", "RemBertModel", "unigram-typed", {**_BERT, "input_embedding_size": 32}),
    Architecture("RoBERTa-PreLayerNorm", "RobertaPreLayerNormModel", "bpe", {**_OFFSET, "type_vocab_size": 1}),
    Architecture("RoFormer", "RoFormerModel", "wordpiece", {**_BERT, "embedding_size": 64}),
    Architecture("Splinter", "SplinterModel", "wordpiece"),
    Architecture("UMT5 encoder", "UMT5EncoderModel", "unigram-ending", _T5),
    Architecture("XLM", "XLMModel", "bpe", _XLM),
    Architecture("XLNet", "XLNetModel", "unigram-typed", {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128}),
    Architecture("YOSO", "YosoModel", "bpe", {**_BERT, "type_vocab_size": 1, "use_fast_hash": False}),
))  # fmt: skip
"""What is not promised: built to learn whether it works, and that it says why where it does not."""


def write(row: Architecture, folder: Path) -> None:
    """Write a tiny model of random weights, with its tokenizer."""
    import torch
    import transformers

    torch.manual_seed(11)
    vocabulary = WRITERS[row.tokenizer](folder)
    cls = getattr(transformers, row.model)
    config = cls.config_class(vocab_size=vocabulary.size, pad_token_id=vocabulary.pad_id, **row.config)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, DEVIATION)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0  # as training leaves it; MobileBERT reads the neighbour's
    model.save_pretrained(folder)


def _shortcomings(notes: Sequence[str]) -> tuple[str, ...]:
    """Return the notes but for those that state a gain."""
    return tuple(note for note in notes if "were equalized at" not in note and "were fitted at" not in note)


def measure(row: Architecture, formats: Sequence[str], work: Path) -> support.Architecture:
    """Build one architecture, and return its row: all formats at once, or each alone where that fails."""
    folder = work / row.model
    command = [sys.executable, "-m", "tests.architectures", "--model", row.name, str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    manifest, complaint = _build(folder, formats)
    cells: list[support.Cell] = []
    notes = manifest["notes"] if manifest else []
    for fmt in formats:
        if manifest is None and len(formats) > 1:
            alone, reason = _build(folder, [fmt])
            notes = alone["notes"] if alone else notes
        else:
            alone, reason = manifest, complaint
        cells.append(_cell(fmt, alone, reason))
    return support.Architecture(
        row.name, row.model, KINDS[row.tokenizer], row.listed, tuple(cells), _shortcomings(notes)
    )


def _build(folder: Path, formats: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """Return the manifest, or None and the sentence that the build failed with."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            "nice",
            "-n",
            str(max(0, _NICE - os.nice(0))),
            sys.executable,
            "-m",
            "edgellm",
            "build",
            str(folder),
            "--target",
            TARGET,
        ]
        command += [part for fmt in formats for part in ("--format", fmt)]
        command += ["--scheme", SCHEME, "--min-agreement", str(GATE), "--no-cache", "--json", "--out", f"{out}/bundle"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().removeprefix("edgellm: ").replace(str(folder), folder.name)
            return None, said.partition(" The log has the details")[0]
        manifest: dict[str, Any] = json.loads(done.stdout)["manifest"]
        return manifest, ""


def _cell(fmt: str, manifest: dict[str, Any] | None, reason: str) -> support.Cell:
    if manifest is None:
        return support.Cell(fmt, None, None, reason)
    found = next(item["agreement"] for item in manifest["artifacts"] if item["format"] == fmt)
    return support.Cell(fmt, round(found["mean"], 4), round(found["min"], 4), "")


def run(
    rows: Sequence[Architecture], formats: Sequence[str], keep: Callable[[support.Architecture], None]
) -> support.Support:
    """Build every row in every format, and return the matrix; `keep` gets each row as soon as it is done."""
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        started = [pool.submit(measure, row, formats, Path(work)) for row in rows]
        for done in as_completed(started):
            row = done.result()
            cells = "  ".join(f"{c.format} {c.reason if c.mean is None else f'{c.mean:.4f}'}" for c in row.cells)
            print(f"{row.name}: {cells}", file=sys.stderr, flush=True)
            keep(row)
        measured = tuple(done.result() for done in started)
    return support.Support(_conditions(formats), measured)


def _conditions(formats: Sequence[str]) -> support.Measured:
    task = load_task("feature-extraction")
    tools = sorted({tool for fmt in formats for tool in TOOLS[fmt]} | {"tokenizers"})
    return support.Measured(
        scheme=SCHEME,
        task="feature-extraction",
        metric=task.METRIC,
        gate=GATE,
        texts=min(task.GOLDEN_CASES, len(default_texts("golden"))),
        target=TARGET,
        deviation=DEVIATION,
        versions={tool: importlib.metadata.version(tool) for tool in tools},
    )


def _merge(row: support.Architecture) -> None:
    """Put a row into edgellm/support.json, whose other rows stay if they were measured under the same conditions."""
    path = Path(support.__file__).parent / support.FILE
    rows = {}
    if path.is_file():
        before = support.read_support()
        rows = {row.name: row for row in before.architectures} if before.measured == _conditions(PORTABLE) else {}
    rows[row.name] = row
    ordered = tuple(rows[each.name] for each in (*LISTED, *OTHERS) if each.name in rows)
    path.write_text(_as_json(support.Support(_conditions(PORTABLE), ordered)), encoding="utf-8")


def _as_json(matrix: support.Support) -> str:
    return json.dumps(strict.plain(matrix), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(prog="python -m tests.architectures", description=__doc__)
    parser.add_argument("--only", action="append", help="name of an architecture; may be repeated")
    parser.add_argument("--format", action="append", choices=PORTABLE, help="may be repeated; all if left out")
    parser.add_argument("--write", action="store_true", help="keep the matrix in edgellm/support.json")
    parser.add_argument("--json", help="file that takes the matrix as JSON")
    parser.add_argument("--model", nargs=2, metavar=("NAME", "FOLDER"), help="write one tiny model, and nothing else")
    args = parser.parse_args()
    rows = {row.name: row for row in (*LISTED, *OTHERS)}
    if args.model:
        write(rows[args.model[0]], Path(args.model[1]))
        return
    unknown = sorted(set(args.only or ()) - rows.keys())
    if unknown:
        parser.error(f"no architecture {', '.join(unknown)}; there are {', '.join(rows)}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    if args.write and args.format:
        parser.error("--write keeps whole rows: leave --format out")
    keep = _merge if args.write else lambda row: None
    result = run([rows[name] for name in args.only or rows], args.format or PORTABLE, keep)
    if args.json:
        Path(args.json).write_text(_as_json(result), encoding="utf-8")
    print(supported(result))


if __name__ == "__main__":
    main()
