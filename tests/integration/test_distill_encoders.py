"""A classifier that learned from a larger one is built, and its bundle answers from raw text as the student does."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.core.training import Training
from edgellm.runtime import Session
from edgellm.texts import default_texts
from tests.integration.conftest import edgellm

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def script(text: str) -> str:
    """Return a label that a text has and that can be learned in seconds."""
    return "calm" if sum(ord(c) < 0x250 for c in text) > len(text) / 2 else "sad"


def test_a_distilled_classifier_answers_as_its_teacher_from_the_bundle(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns when it is imported
        from edgellm.distill.encoders import distill_encoder
    texts = [text for name in ("golden", "calibration") for text in default_texts(name) if text.strip()]
    rows = [json.dumps({"text": text, "label": script(text)}) + "\n" for text in dict.fromkeys(texts)]
    for name, part in (("train", rows[::2]), ("dev", rows[1::4]), ("test", rows[3::4])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    files = {name: tmp_path / f"{name}.jsonl" for name in ("dev", "test")}
    training = Training(epochs=6, batch=16, rate=2e-3, threads=1)
    # The teacher is made of labels alone, from random weights; the student of one layer from what the teacher says of texts.
    teacher = distill_encoder(
        model("classifier"), tmp_path / "teacher", student=2, data=tmp_path / "train.jsonl", hard=1.0, hidden=0.0,
        training=training, max_tokens=32, quiet=True, **files,
    )  # fmt: skip
    taught = teacher.scores[1].student
    assert taught is not None
    assert taught > 0.8
    (tmp_path / "texts.txt").write_text(
        "\n".join(" ".join(json.loads(row)["text"].split()) for row in rows[::2]), encoding="utf-8"
    )
    student = distill_encoder(
        tmp_path / "teacher", tmp_path / "student", student=1, data=tmp_path / "texts.txt", attention=1.0,
        training=training, max_tokens=32, quiet=True, **files,
    )  # fmt: skip
    tested = student.scores[1]
    assert tested.student is not None
    assert tested.agreed > 0.85
    assert tested.student > taught - 0.1
    out = tmp_path / "bundle"
    done = edgellm(
        "build", str(tmp_path / "student"), "--target", "linux-x86_64", "--format", "onnx", "--scheme", "int8-dynamic",
        "--seq-len", "32", "--out", str(out), "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in files["test"].read_text(encoding="utf-8").splitlines()]
    answers = Session.open(out)([case["text"] for case in cases])
    decided = [answer.value[0]["label"] for answer in answers]  # type: ignore[index]
    right = sum(case["label"] == label for case, label in zip(cases, decided, strict=True))
    assert right / len(cases) == pytest.approx(tested.student, abs=0.05)


@pytest.mark.full
def test_processes_that_accelerate_started_make_one_student(model: Callable[[str], Path], tmp_path: Path) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(" ".join(text.split()) for text in default_texts("golden")[:120]), encoding="utf-8")
    found = side_by_side(model("encoder"), data, tmp_path / "out")
    assert found[0]["scores"] == found[1]["scores"]
    assert found[0]["trained"]["of_steps"] == 3 * math.ceil(found[0]["texts"] / 16)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


@pytest.mark.full
def test_processes_share_the_labels_of_a_teacher_that_answers_token_by_token(tmp_path: Path) -> None:
    from tests.sequences import WORDS, tiny_teacher, write_pairs

    words = sorted(WORDS)
    data, dev = write_pairs(tmp_path / "train.tsv", words[:36]), write_pairs(tmp_path / "dev.tsv", words[36:])
    found = side_by_side(tiny_teacher(tmp_path / "teacher"), data, tmp_path / "out", dev)
    assert found[0]["dev"] == found[1]["dev"]
    assert found[0]["trained"]["steps"] == found[1]["trained"]["steps"] > 0
    assert [path.suffix for path in (tmp_path / "labels").iterdir()] == [".tsv"]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def side_by_side(*arguments: Path) -> list[dict[str, Any]]:
    """Run `tests.small_distillation` in two processes, and return what each prints."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "tests.small_distillation",
         *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == 2
    return found
