"""Vela's environment and how it is run: a stand-in prints what a test says, in a folder under the lock's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.core.npu import Accelerator
from edgellm.errors import EdgellmError, InputError, MissingDependencyError, UsageError
from edgellm.toolchain import vela

U85 = Accelerator.of("ethos-u85-512")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that is run as Vela."""
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    package = vela.folder() / "ethosu" / "vela"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return package / "__main__.py"


def test_without_vela_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=f"needs Vela 5.*Install it with: {vela.SETUP}"):
        vela.compile_model(tmp_path / "m.tflite", U85, tmp_path)


def test_what_vela_wrote_is_returned(stand_in: Path, tmp_path: Path) -> None:
    stand_in.write_text(
        "import sys, pathlib\n"
        "args = sys.argv[1:]\n"
        "out = pathlib.Path(args[args.index('--output-dir') + 1])\n"
        "(out / 'm_vela.tflite').write_bytes(b'x')\n"
        "(out / 'm_summary_S.csv').write_text('a,b')\n"
        "print(args[args.index('--accelerator-config') + 1], args[args.index('--memory-mode') + 1])\n"
        "print([p for p in sys.path if 'site-packages' in p])\n"
    )
    done = vela.compile_model(tmp_path / "m.tflite", U85, tmp_path)
    assert done.file == tmp_path / "m_vela.tflite"
    assert done.printed == "ethos-u85-512 Dedicated_Sram_384KB\n[]\n"
    assert done.summary == "a,b"
    assert not (tmp_path / "m_summary_S.csv").exists()


def test_a_model_that_vela_refuses_is_an_input_error(stand_in: Path, tmp_path: Path) -> None:
    stand_in.write_text("import sys\nprint('Error: Invalid tflite file. Got buffer')\nsys.exit(1)\n")
    with pytest.raises(InputError, match=r"can't compile m\.tflite for ethos-u85-512: Error: Invalid tflite file"):
        vela.compile_model(tmp_path / "m.tflite", U85, tmp_path)


def test_an_accelerator_that_vela_does_not_know_is_a_usage_error(stand_in: Path, tmp_path: Path) -> None:
    stand_in.write_text("import sys\nprint('error: argument: invalid choice: u85-3', file=sys.stderr)\nsys.exit(2)\n")
    with pytest.raises(UsageError, match="refuses ethos-u85-512"):
        vela.compile_model(tmp_path / "m.tflite", U85, tmp_path)


def test_a_compiled_model_without_summary_is_an_error(stand_in: Path, tmp_path: Path) -> None:
    (tmp_path / "m_vela.tflite").write_bytes(b"x")
    stand_in.write_text("")
    with pytest.raises(EdgellmError, match="wrote 0 summaries"):
        vela.compile_model(tmp_path / "m.tflite", U85, tmp_path)


def test_another_lock_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    before = vela.folder()
    lock = tmp_path / "toolchains" / "vela"
    lock.mkdir(parents=True)
    (lock / "requirements.txt").write_text("ethos-u-vela==6.0.0 --hash=sha256:" + "0" * 64)
    monkeypatch.setattr(vela, "shipped", lambda name: tmp_path / name)
    assert vela.version() == "6.0.0"
    assert vela.folder() != before
