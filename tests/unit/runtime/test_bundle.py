"""Opening bundles: every way in which one can be damaged or hostile is refused, and says where."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import BundleError, UsageError
from edgellm.runtime.bundle import Bundle, to_json
from tests.tiny import TEXTS, edit_manifest, reseal, tiny_bundle


def test_a_whole_bundle_opens_and_gives_its_golden_cases(embedder: Bundle) -> None:
    opened = Bundle.open(str(embedder.path))
    opened.use_all()
    cases = list(opened.golden())
    assert [case.input for case in cases] == list(TEXTS)
    assert cases[0].feeds[0]["input_ids"].dtype == np.int64
    assert cases[0].outputs[0]["embedding"].dtype == np.float32
    np.testing.assert_array_equal(np.float32(cases[0].value), cases[0].outputs[0]["embedding"][0])


@pytest.mark.parametrize(
    "name",
    [
        "../outside.onnx",
        "a/../../outside.onnx",
        "..",
        ".",
        "",
        "/etc/hostname",
        "//etc/hostname",
        "..\\outside.onnx",
        "a\\b.onnx",
        "C:outside.onnx",
        "./README.md",
        "a//b",
        "README.md/",
        "manifest.json",
        "a\0b",
        "\ud800",
    ],
)
@pytest.mark.parametrize("field", ["files", "artifacts"])
def test_a_path_that_is_none_inside_the_bundle_is_refused(tmp_path: Path, name: str, field: str) -> None:
    (tmp_path / "outside.onnx").write_bytes(b"secret")
    path = tiny_bundle(tmp_path / "bundle").path

    def change(data: dict[str, Any]) -> None:
        data["files"].append({**data["files"][0], "path": name})
        if field == "artifacts":
            data["artifacts"][0].update(file=name, sha256=data["files"][0]["sha256"], bytes=data["files"][0]["bytes"])

    edit_manifest(path, change)
    with pytest.raises(BundleError, match="no path inside the bundle"):
        Bundle.open(path)


@pytest.mark.parametrize("where", ["file", "folder", "loop"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, where: str) -> None:
    path = tiny_bundle(tmp_path / "bundle").path
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"secret")
    name = "link/x" if where == "folder" else "link"
    target = {"file": outside / "x", "folder": outside, "loop": path / "link"}[where]
    (path / "link").symlink_to(target)
    edit_manifest(path, lambda data: data["files"].append({"path": name, "bytes": 6, "sha256": "0" * 64}))
    with pytest.raises(BundleError):
        Bundle.open(path)


def test_a_link_that_is_planted_after_opening_is_refused_at_use(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    model = bundle.path / "model-fp32.onnx"
    model.rename(tmp_path / "elsewhere.onnx")  # the right bytes, in the wrong place
    model.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match=r"model-fp32.onnx leads out of the bundle"):
        bundle.use("model-fp32.onnx")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, "was altered: its SHA-256 is not the manifest's"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "the manifest says"),
        (lambda path: path.write_bytes(b""), "has 0 bytes, the manifest says"),
        (lambda path: path.unlink(), "can't be read: No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "bytes, the manifest says|can't be read"),
    ],
    ids=["altered byte", "truncated", "emptied", "missing", "folder"],
)
@pytest.mark.parametrize("name", ["model-fp32.onnx", "tokenizer.json", "golden.jsonl", "README.md"])
def test_a_damaged_file_is_refused_before_it_is_used(
    tmp_path: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    damage(bundle.path / name)
    for check in (lambda: bundle.use(name), bundle.use_all):
        with pytest.raises(BundleError, match=message) as caught:
            check()
        assert name in str(caught.value)
        assert "build it again" in str(caught.value)


@pytest.mark.parametrize("kind", ["file", "hidden file", "file in a folder", "link to a folder", "broken link"])
def test_what_the_manifest_does_not_list_is_refused(tmp_path: Path, kind: str) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    if "link" in kind:
        (bundle.path / "extra").symlink_to(tmp_path if kind == "link to a folder" else tmp_path / "gone")
    else:
        extra = bundle.path / {"file": "extra", "hidden file": ".extra", "file in a folder": "a/extra"}[kind]
        extra.parent.mkdir(exist_ok=True)
        extra.write_text("x")
    with pytest.raises(BundleError, match=r"extra is not in the manifest\. Measurements belong in reports/"):
        bundle.use_all()


def test_reports_lie_outside_the_hashes(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle.path / "reports").mkdir()
    (bundle.path / "reports" / "latency.json").write_text("{}")
    bundle.use_all()


def test_a_name_that_is_not_listed_can_not_be_used(embedder: Bundle) -> None:
    with pytest.raises(BundleError, match=r"manifest.json is not in the manifest"):
        embedder.use("manifest.json")


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.5, [1], {}])
def test_another_schema_version_is_refused_before_anything_else(tmp_path: Path, version: object) -> None:
    path = tiny_bundle(tmp_path / "bundle").path
    edit_manifest(path, lambda data: data.update(schema_version=version, new_key_of_that_version=1))
    with pytest.raises(BundleError, match=r"has schema version .*; this edgellm reads 1\. Install the edgellm"):
        Bundle.open(path)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "two digests": (lambda d: d["artifacts"][0].update(sha256="0" * 64), "two digests or sizes for model-fp32.onnx"),
    "two sizes": (lambda d: d["artifacts"][0].update(bytes=1), "two digests or sizes for model-fp32.onnx"),
    "a file twice": (lambda d: d["files"].append(d["files"][0]), "a file is listed twice"),
    "an id twice": (lambda d: d["artifacts"].append(d["artifacts"][0]), "ids are missing or not unique"),
    "no artifacts": (lambda d: d.update(artifacts=[]), "ids are missing or not unique"),
    "no tokenizer": (
        lambda d: d.update(files=[f for f in d["files"] if f["path"] != "tokenizer.json"]),
        "tokenizer.json",
    ),
    "no golden cases": (
        lambda d: d.update(files=[f for f in d["files"] if f["path"] != "golden.jsonl"]),
        "golden.jsonl",
    ),
    "artifact not listed": (lambda d: d["artifacts"][0].update(file="other.onnx"), "other.onnx is not among the files"),
    "unknown key": (lambda d: d.update(entry_point="os.system"), "manifest.json: unknown key 'entry_point'"),
    "not a number": (lambda d: d.update(min_agreement=float("nan")), "min_agreement"),
    "beyond a float": (lambda d: d.update(min_agreement=10**400), "min_agreement"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, name: str) -> None:
    path = tiny_bundle(tmp_path / "bundle").path
    change, message = CHANGES[name]
    edit_manifest(path, change)
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "cut off", "list", "null", "text", "not UTF-8", "deep", "huge number"],
)
def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("kind", ["nothing", "file", "empty folder", "manifest is a folder", "NUL in the path"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("x")
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "manifest is a folder":
        (path / "manifest.json").mkdir(parents=True)
    with pytest.raises(BundleError):
        Bundle.open(f"{path}\0" if kind == "NUL in the path" else path)


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "{}", '{"input": "x", "feeds": [1], "outputs": [], "value": 0}',
     '{"input": "x", "feeds": [{"input_ids": [["a"]]}], "outputs": [], "value": 0}',
     '{"input": "x", "feeds": [{"input_ids": [[1], [1, 2]]}], "outputs": [], "value": 0}',
     '{"input": "x", "feeds": [{"input_ids": [[99999999999999999999]]}], "outputs": [], "value": 0}'],
)  # fmt: skip
def test_a_golden_line_that_does_not_parse_is_named(tmp_path: Path, line: str) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    with (bundle.path / "golden.jsonl").open("a") as golden:
        golden.write(line + "\n")
    reseal(bundle.path)
    with pytest.raises(BundleError, match=f"golden.jsonl line {len(TEXTS) + 1} is wrong"):
        list(Bundle.open(bundle.path).golden())


def test_golden_cases_are_not_read_from_an_altered_file(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    _flip(bundle.path / "golden.jsonl")
    with pytest.raises(BundleError, match="was altered"):
        next(bundle.golden())


def test_artifacts_are_found_by_format_and_by_id(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", others=("tflite",))
    assert bundle.artifact("onnx").id == bundle.artifact("onnx-fp32").id == "onnx-fp32"
    with pytest.raises(UsageError, match=r"No format 'onx'. Did you mean 'onnx'\? Choices: onnx, tflite"):
        bundle.artifact("onx")


def test_float32_is_written_short_and_comes_back_exactly() -> None:
    values = np.array([[0.1, 1 / 3, 1e-30, -0.0, 3.4028235e38]], dtype=np.float32)
    text = json.dumps(to_json({"x": (values, np.int64(3), np.float32(0.1))}))
    assert "0.1," in text
    assert np.array_equal(np.array(json.loads(text)["x"][0], dtype=np.float32), values)
    assert json.loads(text)["x"][1:] == [3, 0.1]


def test_an_unreadable_file_is_a_bundle_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")

    def refuse(
        self: Path, *args: object, **kwargs: object
    ) -> None:  # root may read everything, so chmod proves nothing
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleError, match="can't be read: Permission denied"):
        bundle.use("README.md")
