"""The learner: what of each family of transformers can be compared, and what its loss is made of."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgellm.core.distill import Signals
from edgellm.errors import InputError
from edgellm.stages.source import SourceModel
from edgellm.tasks import load_task
from tests.unit.stages.folders import read

pytestmark = pytest.mark.filterwarnings("default")  # of torch's own
IDS, MASK = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 0, 0]]), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
FAMILIES = {
    "BERT": "relations maps", "DistilBERT": "relations maps", "RoBERTa": "relations maps", "ELECTRA": "relations maps",
    "ALBERT": "relations maps, shared", "MobileBERT": "relations maps", "MPNet": "relations maps",
    "DeBERTa-v2/v3": "relations maps", "ModernBERT": "maps", "T5 encoder": "relations maps", "SqueezeBERT": "maps",
}  # fmt: skip
"""What of the attention can be compared, and whether layers can't be told apart."""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SourceModel]:
    home = tmp_path_factory.mktemp("families")

    def write(name: str) -> SourceModel:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers warns when it is imported
            from tests import architectures
        row = next(row for row in architectures.LISTED if row.name == name)
        if not (home / row.model).exists():
            architectures.write(row, home / row.model)
        return read(home / row.model)

    return write


def wrapped(source: SourceModel) -> Any:
    from edgellm.stages.load import load

    return load_task(source.task).wrap(load(source), source.options)


def learner(student: SourceModel, teacher: SourceModel, signals: Signals, kind: str = "vector") -> Any:
    from edgellm.distill.learner import Learner

    return Learner(wrapped(student), wrapped(teacher), signals, kind=kind, heads=4, types=(False, False))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_learns_from_a_deeper_one(name: str, family: Callable[[str], SourceModel], tmp_path: Path) -> None:
    from edgellm.distill.shorten import shorten

    teacher = family(name)
    if "shared" in FAMILIES[name]:
        with pytest.raises(InputError, match="can't be told apart"):
            shorten(teacher, 1, None, tmp_path / "student")
        student = teacher
    else:
        shorten(teacher, 1, None, tmp_path / "student")
        student = read(tmp_path / "student")
        assert student.parameters < teacher.parameters
    for attend in ("relations", "maps"):
        signals = Signals(hard=0.0, attention=1.0, attend=attend)
        if attend not in FAMILIES[name]:
            with pytest.raises(InputError, match="queries, keys and values"):
                learner(student, teacher, signals)
            continue
        model = learner(student, teacher, signals).train()
        model(IDS, MASK, torch.zeros(2))["loss"].backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert sum(float(grad.abs().sum()) for grad in grads) > 0
        assert all(bool(torch.isfinite(grad).all()) for grad in grads)


@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "T5 encoder", "DeBERTa-v2/v3"])
def test_a_shortened_model_is_what_its_layers_compute(
    name: str, family: Callable[[str], SourceModel], tmp_path: Path
) -> None:
    from edgellm.distill.shorten import shorten

    teacher = family(name)
    count = 3 if name == "ModernBERT" else 2
    assert shorten(teacher, count, None, tmp_path / "all") == tuple(range(count))
    shorten(teacher, 1, None, tmp_path / "one")
    with torch.no_grad():
        whole, same = (wrapped(source).eval()(IDS, MASK) for source in (teacher, read(tmp_path / "all")))
        states = (
            wrapped(teacher).eval().model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
        )
        one = wrapped(read(tmp_path / "one")).eval().model(
            input_ids=IDS, attention_mask=MASK, output_hidden_states=True
        ).hidden_states  # fmt: skip
    assert torch.equal(whole, same)
    assert torch.equal(one[0], states[0])
    if name in ("BERT", "DeBERTa-v2/v3"):  # nothing comes after the last layer
        assert torch.allclose(one[1], states[1], atol=1e-6)


def test_one_that_equals_its_teacher_has_nothing_to_learn(family: Callable[[str], SourceModel]) -> None:
    source = family("BERT")
    for attend in ("relations", "maps"):
        for match in ("mse", "cosine"):
            signals = Signals(hard=0.0, attention=1.0, attend=attend, match=match)
            loss = learner(source, source, signals).eval()(IDS, MASK, torch.zeros(2))["loss"]
            assert float(loss.detach()) == pytest.approx(0, abs=1e-5)


def test_the_teacher_is_no_part_of_it(family: Callable[[str], SourceModel]) -> None:
    source = family("BERT")
    model = learner(source, source, Signals(hard=0.0))
    own = wrapped(source)
    assert {f"student.{name}" for name in own.state_dict()} == set(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in own.parameters())


def test_other_widths_and_head_numbers_take_a_projection_and_relations(
    family: Callable[[str], SourceModel], tmp_path: Path
) -> None:
    import transformers

    teacher = family("BERT")
    config = transformers.BertConfig(
        vocab_size=teacher.inputs[0].bound, hidden_size=48, num_hidden_layers=1, num_attention_heads=3,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    student = dataclasses.replace(teacher, folder=str(tmp_path))
    model = learner(student, teacher, Signals(hard=0.0, attention=1.0))
    assert model.project.weight.shape == (64, 48)
    assert model._heads == 4
    model(IDS, MASK, torch.zeros(2))["loss"].backward()
    assert float(model.project.weight.grad.abs().sum()) > 0
    with pytest.raises(InputError, match="3 attention heads, the teacher 4"):
        learner(student, teacher, Signals(hard=0.0, attention=1.0, attend="maps"))


def test_nothing_is_kept_of_a_pass_that_compares_nothing(family: Callable[[str], SourceModel]) -> None:
    source = family("BERT")
    made = learner(source, source, Signals(hard=0.0, attention=1.0)).train()
    made(IDS, MASK, torch.zeros(2))["loss"].backward()
    for side in (made.student, made._teacher[0]):
        assert not any(module._forward_hooks for module in side.modules() if isinstance(module, torch.nn.Linear))


def test_labels_alone_are_learned_without_the_teacher(model: Callable[[str], Path]) -> None:
    source = read(model("classifier"))
    alone = learner(source, source, Signals(hard=1.0, hidden=0.0), kind="label").eval()
    alone._teacher[0].forward = None  # not to be called
    labels = torch.tensor([0, 2])
    out = alone(IDS, MASK, labels)
    wanted = torch.nn.functional.cross_entropy(wrapped(source).eval()(IDS, MASK), labels)
    assert float(out["loss"].detach()) == pytest.approx(float(wanted.detach()), abs=1e-6)


def test_the_parts_of_the_loss_are_weighed(model: Callable[[str], Path], family: Callable[[str], SourceModel]) -> None:
    source = read(model("classifier"))
    labels = torch.tensor([0, 2])

    def loss(**signals: float) -> float:
        torch.manual_seed(3)
        built = learner(source, source, Signals(**{"hidden": 0.0, **signals}), kind="label")  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in built.student.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape))
        return float(built.eval()(IDS, MASK, labels)["loss"].detach())

    hard, soft = loss(hard=1.0), loss(hard=0.0)
    assert loss(hard=0.3) == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-5)
    states = loss(hard=1.0, hidden=1.0) - hard
    assert states > 0
    assert loss(hard=0.3, hidden=2.5) == pytest.approx(0.3 * hard + 0.7 * soft + 2.5 * states, rel=1e-4)
