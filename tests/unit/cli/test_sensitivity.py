"""`edgellm sensitivity --plot`: refused before anything is measured, and a picture that can be read."""

from __future__ import annotations

import dataclasses
import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgellm.core.sensitivity import Loss, Part, Sensitivity
from edgellm.errors import MissingDependencyError, UsageError
from edgellm.stages.sensitivity_plot import plot
from edgellm.stages.svg import ensure_writable
from tests.unit.cli.command import call


def measured(layers: int) -> Sensitivity:
    """Return a result whose first part is the noisiest, and whose last changes nothing."""
    kinds = (
        Part("inputs", Loss(9.5, 0.9), Loss(24.0, 0.99)),
        Part("weights", Loss(20.0, 0.98), Loss(9.6, 0.91)),
        Part("tables", Loss(None, 1.0), Loss(9.1, 0.9)),
    )
    parts = tuple(
        Part(f"layer.{n}", Loss(10 + n if n < layers - 1 else None, 0.99), Loss(9 + 1 / (n + 1), 0.9)) for n in range(layers)
    )  # fmt: skip
    return Sensitivity(
        "judge", "text-classification", "equal decisions", "int8-static", "onnx", "mse", 64, 32, Loss(9.0, 0.9), parts, kinds
    )  # fmt: skip


def words(path: Path) -> list[str]:
    """Return the texts of a picture in order."""
    return [each.text or "" for each in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_a_picture_is_the_same_bytes_for_the_same_result_and_says_what_it_shows(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plot(measured(6), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    said = words(tmp_path / "a.svg")
    names = [word for word in said if word.startswith("layer.") or word in ("inputs", "weights", "tables")]
    assert names == ["inputs", "weights", "tables", *(f"layer.{n}" for n in range(6))], "the noisiest first"
    assert said.count(" exact") == 2
    for text in (
        "judge, int8-static as in onnx, ranges by mse", "simulated in fp32 on 32 texts; all layers",
        "signal to noise of the model's outputs, dB", "agreement: equal decisions", "everything but it", "everything",
        "a layer alone", "a kind alone",
    ):  # fmt: skip
        assert text in said


def test_a_deep_model_s_picture_stays_readable_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    plot(measured(200), tmp_path / "deep.svg")
    said = words(tmp_path / "deep.svg")
    assert [word for word in said if word.startswith("layer.")] == [f"layer.{n}" for n in range(37)]
    assert "simulated in fp32 on 32 texts; the 37 noisiest of 200 layers, 163 quieter ones left out" in said


def test_names_are_shown_as_they_are_and_nothing_has_to_be_noisy(tmp_path: Path) -> None:
    exact = Part("$x_1$ <&> 模型 --", Loss(None, 1.0), Loss(None, 1.0))
    found = dataclasses.replace(
        measured(1), model="$m$", ranges=None, whole=Loss(None, 1.0), layers=(exact,), kinds=()
    )  # fmt: skip
    plot(found, tmp_path / "a.svg")
    assert {exact.name, "$m$, int8-static as in onnx", " exact"} <= set(words(tmp_path / "a.svg"))


def test_looking_whether_a_picture_can_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    ensure_writable(tmp_path / "new.svg", "--plot")
    assert not list(tmp_path.iterdir())
    (tmp_path / "old.SVG").write_text("an older picture")
    ensure_writable(tmp_path / "old.SVG", "--plot")
    assert (tmp_path / "old.SVG").read_text() == "an older picture"
    with pytest.raises(UsageError, match=r"--plot writes SVG, and '.*\.pdf' does not end in \.svg"):
        ensure_writable(tmp_path / "new.pdf", "--plot")


def test_without_matplotlib_nothing_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measure(*args: object, **kwargs: object) -> None:
        raise AssertionError("measured")

    found = importlib.util.find_spec
    monkeypatch.setattr("edgellm.sensitivity.measure_sensitivity", measure)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    done = call(capsys, "sensitivity", "model", "--plot", tmp_path / "a.svg")
    assert done.code == MissingDependencyError.exit_code
    assert done.err == "edgellm: --plot needs matplotlib. Install it with: pip install 'edgellm[search]'\n"


def test_a_picture_that_fails_takes_no_result_along(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()

    def measure(*args: object, **kwargs: object) -> Sensitivity:
        (tmp_path / "gone").rmdir()
        return measured(2)

    monkeypatch.setattr("edgellm.sensitivity.measure_sensitivity", measure)
    done = call(capsys, "sensitivity", "model", "--plot", tmp_path / "gone" / "a.svg")
    assert done.code == 7
    assert done.out.startswith("judge, int8-static as in onnx, ranges by mse: 9.0 dB, agreement 0.9000\n")
    assert "was not written: No such file or directory" in done.err
