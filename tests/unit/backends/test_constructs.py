"""What can't be traced or converted is one sentence that names the construct."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from edgellm.backends import Prepared
from edgellm.backends.constructs import converting, unsupported
from edgellm.backends.trace import trace
from edgellm.core.signature import InputSpec, OutputSpec
from edgellm.errors import EdgellmError, InputError

# torch's own decomposition warns of torch's own classes.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

INPUTS = (
    InputSpec("input_ids", "int64", (1, "tokens"), 20, 0),
    InputSpec("attention_mask", "int64", (1, "tokens"), 2, 0),
)


class Odd(nn.Module):
    """A layer with one construct that a graph can't hold, or that a format may not know."""

    def __init__(self, construct: str) -> None:
        super().__init__()
        self.construct = construct
        self.table = nn.Embedding(20, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.table(input_ids)
        if self.construct == "branch" and attention_mask.sum() > 3:
            return x * 2
        if self.construct == "fixed length":
            return x + torch.ones(12, 8)
        if self.construct == "composite":
            return torch.fft.rfft(x).abs()
        return torch.erfinv(x) if self.construct == "operator" else x


class Encoder(nn.Module):
    """A model of one layer."""

    def __init__(self, construct: str) -> None:
        super().__init__()
        self.layer = Odd(construct)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(input_ids, attention_mask)
        return out


class Wrapper(nn.Module):
    """Holds the model as tasks do."""

    def __init__(self, construct: str) -> None:
        super().__init__()
        self.model = Encoder(construct)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.model(input_ids, attention_mask)
        return out


def traced(construct: str) -> ExportedProgram:
    module = Wrapper(construct).eval()
    return trace(module, Prepared(module, INPUTS, OutputSpec("embedding", "float32", (1, "tokens", 8)), (4, 16)))


def test_a_branch_on_the_text_is_named_with_its_line() -> None:
    with pytest.raises(InputError) as caught:
        traced("branch")
    message = str(caught.value)
    assert message.startswith("Encoder can't be traced: Odd.forward (test_constructs.py line ")
    assert '`if self.construct == "branch" and attention_mask.sum() > 3:`' in message
    assert "\n" not in message


def test_a_length_that_is_fixed_inside_is_said() -> None:
    with pytest.raises(InputError, match="Encoder can't be traced") as caught:
        traced("fixed length")
    assert "12" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_operator_without_translation_is_named_with_its_module() -> None:
    program = traced("operator")
    with pytest.raises(InputError) as caught, converting("tflite", lambda: program, Wrapper("operator")):
        raise RuntimeError("Lowering not found: aten.erfinv.default")
    assert str(caught.value).startswith(
        "tflite can't express aten.erfinv, which Encoder uses in layer (Odd): Lowering not found"
    )


def test_an_operator_in_an_inner_exception_is_found() -> None:
    inner = KeyError("no function for torch.ops.aten.erfinv.default")
    error = RuntimeError("Failed to convert the model")
    error.__cause__ = inner
    program = traced("operator")
    with (
        pytest.raises(InputError, match=r"onnx can't express aten\.erfinv"),
        converting("onnx", lambda: program, Wrapper("operator")),
    ):
        raise error


def test_an_operator_that_a_decomposition_brings_is_named_with_its_module() -> None:
    program = traced("composite")
    assert "_fft_r2c" not in str(program.graph)
    error = unsupported("executorch", ["_fft_r2c"], "no kernel", program, Wrapper("composite"))
    assert str(error).startswith(
        "executorch can't express aten._fft_r2c, which Encoder uses in layer (Odd): no kernel."
    )


def test_of_several_operators_the_one_in_the_trace_is_named() -> None:
    error = unsupported("executorch", ["nothing", "erfinv"], "no kernel", traced("operator"), Wrapper("operator"))
    assert "aten.erfinv" in str(error)


@pytest.mark.parametrize("error", [RuntimeError("something else"), EdgellmError("said already"), OSError(28, "full")])
def test_what_is_no_operator_passes_through(error: Exception) -> None:
    program = traced("operator")
    with pytest.raises(type(error)) as caught, converting("onnx", lambda: program, Wrapper("operator")):
        raise error
    assert caught.value is error


def test_a_converter_that_traces_for_itself_gets_the_sentence_of_the_trace() -> None:
    with (
        pytest.raises(InputError, match="Encoder can't be traced"),
        converting("tflite", lambda: traced("branch"), Wrapper("branch")),
    ):
        raise RuntimeError("something in the converter's own trace")
