"""`edgellm search`: what can't be is said before anything is loaded, and what was found is a table and a command."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.cli.search import shown
from edgellm.core.evaluation import Drop
from edgellm.core.scheme import PORTABLE
from edgellm.core.search import Bounds, Confirmed, Front, Group, Point
from edgellm.core.target import Target
from edgellm.errors import EdgellmError, InputError, MissingDependencyError, UsageError
from edgellm.search import Options, search
from edgellm.search.cost import meter_for
from edgellm.search.result import nothing
from edgellm.search.setup import checked
from edgellm.stages.search_plot import plot
from edgellm.stages.search_trial import split
from edgellm.targets import load_target, target_names
from edgellm.tasks import Example
from tests.unit.cli.command import call
from tests.unit.stages.folders import model_folder

HOST = "linux-x86_64"


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (Options("m", "andriod-arm64"), UsageError, "Did you mean 'android-arm64'?"),
        (Options("m", HOST, minimize="speed"), UsageError, "No cost to minimize 'speed'"),
        (Options("m", HOST, format="onx"), UsageError, "No format 'onx'. Did you mean 'onnx'?"),
        (Options("m", HOST, max_drop=-1), UsageError, "--max-drop is -1"),
        (Options("m", HOST, max_drop=float("nan")), UsageError, "--max-drop is nan"),
        (Options("m", HOST, max_size=0), UsageError, "--max-size is 0"),
        (Options("m", HOST, max_cost=0.0), UsageError, "--max-cost is 0"),
        (Options("m", HOST, trials=0), UsageError, "--trials is 1 or more"),
        (Options("m", HOST, test="t.tsv"), UsageError, "--test has no use without --eval"),
        (Options("m", HOST, schemes=("int3",)), UsageError, "No scheme 'int3'"),
        (Options("m", "imx-rt700-neutron"), MissingDependencyError, "needs eIQ Neutron SDK"),
        (Options("m", HOST, minimize="instructions"), UsageError, "instructions of linux-x86_64 can't be measured"),
        (Options("package.module:function", HOST), InputError, "a function leaves no folder"),
    ],
)
def test_what_cant_be_is_refused_before_anything_is_loaded(
    options: Options, kind: type[EdgellmError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "m")
    with pytest.raises(kind) as caught:
        search(options)
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m"], "nothing was written"


@pytest.mark.parametrize("minimize", ["size", "latency", "instructions"])
@pytest.mark.parametrize(
    ("target", "format", "said"),
    [
        (
            "snapdragon-8-gen3", None,
            "for snapdragon-8-gen3 in qnn: htp takes one scheme for the whole model, int8-static or a16w8, and Qualcomm's "
            "compiler estimates no time that could choose between them. Build it, 'edgellm build --target snapdragon-8-gen3 "
            "--format qnn --scheme a16w8', or search for its CPU, --format onnx.",
        ),
        (
            "ios-arm64-ane", "executorch",
            "for ios-arm64-ane in executorch: coreml takes one scheme for the whole model, fp16 or int8-weight-only, and nothing "
            "here runs what is lowered for it",
        ),
        ("android-arm64-vulkan", None, "vulkan takes one scheme for the whole model, fp16 or int8-weight-only, and nothing"),
    ],
)  # fmt: skip
def test_an_npu_has_nothing_to_search_and_is_told_why(
    target: str, format: str | None, said: str, minimize: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        checked(Options(str(tmp_path / "gone"), target, format=format, minimize=minimize))
    assert str(caught.value).startswith("There is nothing to search ")
    assert said in str(caught.value)


def test_no_npu_is_searched_and_no_torch_loaded_to_say_so(tmp_path: Path) -> None:
    """Every target whose first format no CPU runs, in one process that looks at what it imported."""
    code = (
        "import sys\nfrom edgellm.errors import EdgellmError\nfrom edgellm.search import Options, search\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        search(Options('gone', name))\n"
        "    except EdgellmError as error:\n        print(error.exit_code)\n"
        "assert not {'torch', 'transformers', 'optuna', 'matplotlib'} & set(sys.modules)"
    )
    targets = [load_target(name) for name in target_names()]
    npus = [each for each in targets if each.backend(each.formats[0]) not in PORTABLE]
    done = subprocess.run(
        [sys.executable, "-c", code, *(each.name for each in npus)], capture_output=True, text=True, cwd=tmp_path, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4" if each.tier == 3 else "2" for each in npus]
    assert len(npus) > 10


@pytest.mark.parametrize("package", ["optuna", "matplotlib"])
def test_a_missing_package_comes_with_the_command_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(
        MissingDependencyError, match=rf"needs {package}\. Install it with: pip install 'edgellm\[search"
    ):
        search(Options("m", HOST))


def test_sizes_are_read_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "search", "m", "--target", HOST, "--max-size", "16 parsecs")
    assert done.code == 2
    assert "is no size; it looks like 16MB" in done.err


def test_latency_of_an_arm_target_is_counted_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        name, emulated = "", True

        def check(self, formats: tuple[str, ...], *, counting: bool) -> None:
            assert counting

    def opened(name: str) -> Counting:
        device = Counting()
        device.name = name
        return device

    monkeypatch.setattr("edgellm.search.cost.open_device", opened)
    for target, name in (
        ("raspberry-pi-4", "cortex-a72"),
        ("android-arm64", "cortex-a76"),
        ("ios-arm64", "cortex-a76"),
    ):
        meter = meter_for(load_target(target), "onnx", "latency")
        assert (meter.kind, [device.name for device in meter.devices]) == ("instructions", [f"emulator:{name}"])
        assert str(meter) == f"instructions on emulator:{name}"


def test_texts_that_choose_are_not_those_that_confirm(tmp_path: Path) -> None:
    examples = [Example((f"text number {i}",), "good") for i in range(300)]
    ours, others = split(examples)
    assert (ours, others) == split(examples)
    assert len(ours) + len(others) == 300
    assert 60 < len(others) < 140
    assert split(examples[::-1])[1] == others[::-1], "a text is on one side wherever it stands"

    model_folder(tmp_path / "m")
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match="2 calibration texts are too few"):
        checked(Options(str(tmp_path / "m"), HOST, calibration=str(tmp_path / "few.txt"), out=str(tmp_path / "o")))
    (tmp_path / "texts.txt").write_text("".join(f"Kettle {i} is on.\n" for i in range(60)))
    setup = checked(
        Options(str(tmp_path / "m"), HOST, calibration=str(tmp_path / "texts.txt"), out=str(tmp_path / "o"))
    )
    assert (setup.choose.n, len(setup.plan.calibration), setup.confirm) == (20, 40, None)
    assert not set(setup.choose.inputs) & set(setup.plan.calibration)


def test_a_text_that_calibrates_or_confirms_must_not_choose(tmp_path: Path) -> None:
    labels = {"0": "bad", "1": "good"}
    model_folder(tmp_path / "judge", architectures=["BertForSequenceClassification"], id2label=labels)
    rows = "".join(f"text {i}\tgood\n" for i in range(30))
    (tmp_path / "dev.tsv").write_text("text\tlabel\n" + rows)
    (tmp_path / "test.tsv").write_text("text\tlabel\nanother\tbad\nText  7\tgood\n")
    with pytest.raises(InputError, match='The test texts and the evaluation texts both hold "Text  7"'):
        checked(
            Options(
                str(tmp_path / "judge"), HOST, eval=str(tmp_path / "dev.tsv"), test=str(tmp_path / "test.tsv"),
                out=str(tmp_path / "o"),
            )
        )  # fmt: skip


GROUPS = (Group("tables", ("t",), 9, 0.1, ("int4-dynamic", "int8-dynamic")),)
POINTS = (
    Point(0, "all int8-dynamic", {"tables": "int8-dynamic"}, Drop(0.1, -0.2, 0.4), 20_000_000, None, 0.999, {}),
    Point(1, "", {"tables": "int4-dynamic"}, Drop(0.4, 0.1, 0.7), 12_000_000, None, 0.98, {}),
    Point(2, "", {"tables": "int4-dynamic"}, Drop(2.0, 1.0, 3.0), 11_000_000, None, 0.9, {"drop": 1.5}),
)
FOUND = Front(
    "judge", "0" * 64, "android-arm64", "onnx", "int8-dynamic", "size", "", Bounds(0.5, 16_000_000), "accuracy", "dev.tsv", 1005,
    0, GROUPS, POINTS, (), (2, 1, 0), 0, 1, 0.4,
    Confirmed("test.tsv", 2103, "accuracy", 0.86, Drop(0.3, 0.1, 0.6), Drop(0.0, -0.1, 0.1)), "edgellm build judge",
)  # fmt: skip


def test_a_person_reads_the_front_what_it_was_measured_on_and_the_command() -> None:
    text = shown(FOUND)
    assert text.splitlines()[0] == "judge, onnx for android-arm64: least size, at most 0.5 points lost, 16 MB"
    assert text.splitlines()[-1] == "edgellm build judge"
    assert "Trial 1 is chosen, 40.0% smaller than uniform int8-dynamic:\n  tables  int4-dynamic" in text
    assert "accuracy on 1005 texts (dev.tsv), which chose" in text
    assert "On 2103 texts that chose nothing (test.tsv), accuracy (fp32 0.8600):" in text
    assert "chosen                lost 0.30 points, 95 % interval 0.10 to 0.60" in text
    assert "agrees with fp32 on 98.0% of the golden cases, below a build's gate of 0.99" in text


def test_the_closest_point_is_named_where_none_keeps_the_bounds(tmp_path: Path) -> None:
    error = nothing(
        Front(**{**vars(FOUND), "points": POINTS[2:], "chosen": None}),
        checked_at(tmp_path),
    )
    assert error.exit_code == 5
    assert "The closest, trial 2, breaks --max-drop 0.5: 2.00 points lost, 11.00 MB." in str(error)


def test_a_picture_is_the_same_bytes_for_the_same_front(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plot(FOUND, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "Pareto front" in (tmp_path / "a.svg").read_text()


def checked_at(folder: Path):  # type: ignore[no-untyped-def]
    model_folder(folder / "m")
    return checked(Options(str(folder / "m"), HOST, out=str(folder / "o")))


def test_no_target_is_left_without_a_way_or_a_reason() -> None:
    """What can't be measured is refused; the message says what works."""
    target = load_target("ethos-u85-512")
    assert isinstance(target, Target)
    with pytest.raises(UsageError, match="Use --minimize latency"):
        meter_for(target, "tflite", "instructions")
    with pytest.raises(UsageError, match="Use --minimize size"):
        meter_for(replace(target, delegates={"tflite": "xnnpack"}, npu=None), "tflite", "instructions")


def test_the_cost_on_an_ethos_u_is_an_estimate_and_nothing_else_has_one() -> None:
    meter = meter_for(load_target("ethos-u85-512"), "tflite", "latency")
    assert (meter.kind, meter.devices) == ("estimate", ())
    assert "estimate of the time on the NPU, where nothing was run" in str(meter)
    with pytest.raises(UsageError, match="No compiler estimates the time of onnx for android-arm64"):
        meter_for(load_target("android-arm64"), "onnx", "estimate")


def test_an_estimate_is_told_as_one() -> None:
    text = shown(Front(**{**vars(FOUND), "base": "a16w8", "minimize": "estimate"}))
    assert "40.0% less time by the compiler's estimate than uniform a16w8" in text


@pytest.mark.parametrize(
    ("target", "minimize", "scheme"), [(HOST, "size", "int8-dynamic"), ("ethos-u85-512", "latency", "a16w8")]
)
def test_one_scheme_is_no_choice(target: str, minimize: str, scheme: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"nothing to choose among but {scheme}"):
        checked(Options(str(tmp_path / "gone"), target, minimize=minimize, schemes=(scheme,)))


def test_sizes_on_an_ethos_u_have_nothing_to_choose(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="differ in time and not in size") as caught:
        checked(Options(str(tmp_path / "gone"), "ethos-u85-512"))
    assert caught.value.hint == "Use --minimize latency."
