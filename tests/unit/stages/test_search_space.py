"""The space of a search is small, begins with what an expert would try, and its front is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.core.evaluation import Drop
from edgellm.core.precision import read_precisions
from edgellm.core.search import Bounds, Group, Point
from edgellm.errors import UsageError
from edgellm.stages.search_space import (
    Layer,
    as_toml,
    base_of,
    chosen_of,
    closest_of,
    front_of,
    group_layers,
    precisions_of,
    schemes_for,
    seeds,
)

BASE = "int8-dynamic"

_PARTS = {
    "attention.self.query": (8, 8),
    "attention.output.dense": (8, 8),
    "intermediate.dense": (32, 8),
    "output.dense": (8, 32),
}


def bert(blocks: int, noisy: str = "") -> list[Layer]:
    layers = [Layer("model.embeddings.word_embeddings", 300, 8, True, 1e-4)]
    for block in range(blocks):
        layers += [
            Layer(f"model.encoder.layer.{block}.{part}", *shape, False, 0.5 if noisy and noisy in part else 1e-3)
            for part, shape in _PARTS.items()
        ]
    return [*layers, Layer("model.classifier", 2, 8, False, 1e-3)]


def grouped(layers: list[Layer], backend: str = "onnx") -> tuple[Group, ...]:
    return group_layers(layers, schemes_for(backend, (), timed=False))


@pytest.mark.parametrize(("blocks", "count"), [(1, 4), (2, 7), (6, 10), (12, 10)])
def test_groups_are_few_whatever_the_depth(blocks: int, count: int) -> None:
    layers = bert(blocks)
    groups = grouped(layers)
    assert len(groups) == count
    named = [name for group in groups for name in group.layers]
    assert len(named) == len(set(named)) == len(layers) - 1, "the head has nothing to save"
    assert sum(group.weights for group in groups) == sum(layer.weights for layer in layers[:-1])


def test_groups_are_in_the_order_of_what_they_lose_for_each_weight() -> None:
    groups = grouped(bert(6, noisy="output.dense"))
    assert groups[0].name == "tables"
    assert {group.name.split()[0] for group in groups[-6:]} == {"ffn-out", "attention"}
    unknown = [Layer("model.encoder.layer.0.odd", 64, 64, False, None), *bert(2)]
    assert grouped(unknown)[-1].noise is None, "what could not be observed comes last"


def test_a_layer_that_no_output_comes_of_is_in_no_group() -> None:
    pooler = Layer("model.pooler.dense", 64, 64, False, 0.0)
    assert grouped([*bert(2), pooler]) == grouped(bert(2))


def test_a_tied_layer_shares_the_scheme_of_its_table_and_counts_once() -> None:
    table = Layer("embeddings", 300, 8, True, 1e-4)
    groups = grouped([table, Layer("decoder", 300, 8, True, 1e-4, tied=True), *bert(1)[1:]])
    assert groups[0].layers == ("embeddings", "decoder")
    assert groups[0].weights == 2400


def test_choices_are_what_the_backend_takes_and_what_may_be_better_for_something() -> None:
    assert schemes_for("onnx", (), timed=False) == (
        "int4-dynamic", "int4-weight-only", "int8-dynamic", "int8-weight-only"
    )  # fmt: skip
    assert "int8-static" in schemes_for("onnx", (), timed=True)
    assert schemes_for("executorch", (), timed=False) == ("int4-dynamic", "int8-dynamic", "fp32")
    assert schemes_for("onnx", ("fp32",), timed=False) == ("int8-dynamic", "fp32")
    tables = next(group for group in grouped(bert(2)) if group.name == "tables")
    assert tables.choices == ("int4-dynamic", "int8-dynamic"), "of a table only the weights count"
    for backend, asked, message in (
        ("onnx", "int3", "No scheme 'int3'"),
        ("onnx", "fp16", "onnx can't give fp16 to single layers"),
        ("executorch", "int4-weight-only", "executorch can't give int4-weight-only"),
    ):
        with pytest.raises(UsageError, match=message):
            schemes_for(backend, (asked,), timed=False)


@pytest.mark.parametrize("backend", ["onnx", "executorch", "tflite"])
@pytest.mark.parametrize("blocks", [1, 2, 6])
def test_seeds_are_uniform_schemes_and_beginnings_of_the_order(backend: str, blocks: int) -> None:
    groups = grouped(bert(blocks), backend)
    found = seeds(groups, schemes_for(backend, (), timed=False), BASE)
    assert found[0] == (f"all {BASE}", {group.name: BASE for group in groups})
    assert len(found) <= 12
    assert len({tuple(schemes.items()) for _, schemes in found}) == len(found)
    for name, schemes in found:
        assert all(schemes[group.name] in group.choices for group in groups)
        if name.startswith("first"):
            count = int(name.split()[1])
            assert [schemes[group.name] != BASE for group in groups] == [i < count for i in range(len(groups))]


def test_an_ethos_u_chooses_between_bytes_and_16_bits_for_its_linears_alone() -> None:
    schemes = schemes_for("tflite-ethos-u", (), timed=True)
    assert (base_of("tflite-ethos-u"), schemes) == ("a16w8", ("a16w8", "int8-static"))
    groups = group_layers(bert(6), schemes)
    assert "tables" not in {group.name for group in groups}, "tables have 8 bits in each"
    found = seeds(groups, schemes, "a16w8")
    assert [name for name, _ in found[:3]] == ["all a16w8", "all int8-static", "first 1 in int8-static"]
    precisions = precisions_of(groups, found[2][1], "a16w8")
    assert {precisions.of(layer).name for layer in groups[0].layers} == {"int8-static"}
    assert precisions.of("model.embeddings.word_embeddings").name == "a16w8"
    with pytest.raises(UsageError, match="can't give int4-dynamic to single layers; it takes int8-static, a16w8"):
        schemes_for("tflite-ethos-u", ("int4-dynamic",), timed=True)


def test_the_file_of_layers_is_what_a_build_reads(tmp_path: Path) -> None:
    groups = grouped(bert(2))
    _, schemes = seeds(groups, groups[1].choices, BASE)[-1]
    precisions = precisions_of(groups, schemes, BASE)
    file = tmp_path / "chosen.toml"
    file.write_text(as_toml(precisions, "a comment"))
    assert read_precisions(file) == precisions
    for group in groups:
        assert {precisions.of(layer).name for layer in group.layers} == {schemes[group.name]}
    uniform = precisions_of(groups, seeds(groups, groups[1].choices, BASE)[0][1], BASE)
    file.write_text(as_toml(uniform, "nothing to name"))
    assert read_precisions(file).name == BASE


BROKEN = st.sampled_from([{}, {"drop": 0.5}, {"size": 0.1}, {"drop": 0.1, "cost": 0.2}])
POINTS = st.lists(st.tuples(st.integers(-20, 200), st.integers(1, 50), BROKEN), max_size=25).map(
    lambda rows: [
        Point(i, "", {}, Drop(drop / 10, 0, 0), size, None, 1.0, broken) for i, (drop, size, broken) in enumerate(rows)
    ]
)


@settings(deadline=None)
@given(POINTS)
def test_the_front_holds_what_nothing_betters_and_nothing_else(points: list[Point]) -> None:
    front = front_of(points, "size")
    assert len(set(front)) == len(front)

    def betters(a: Point, b: Point) -> bool:
        x, y = a.objectives("size"), b.objectives("size")
        return x != y and x[0] <= y[0] and x[1] <= y[1]

    bounded = [point for point in points if set(point.broken) <= {"drop"}]
    on = [point for point in bounded if point.number in front]
    assert len(on) == len(front)
    assert not any(betters(a, b) for a in bounded for b in on)
    left = [point for point in bounded if point.number not in front]
    assert all(any(betters(a, b) or a.objectives("size") == b.objectives("size") for a in on) for b in left)
    sizes = [point.bytes for number in front for point in points if point.number == number]
    assert sizes == sorted(sizes)


@settings(deadline=None)
@given(POINTS)
def test_the_chosen_point_is_the_smallest_within_the_bounds(points: list[Point]) -> None:
    points = [dataclasses.replace(p, broken={k: v for k, v in p.broken.items() if k != "drop"}) for p in points]
    points = [p if p.drop.points <= 1 else dataclasses.replace(p, broken={**p.broken, "drop": 1.0}) for p in points]
    chosen = chosen_of(points, "size")
    within = [point for point in points if point.feasible]
    assert (chosen is None) == (not within)
    if chosen is not None:
        assert chosen.bytes == min(point.bytes for point in within)
        assert chosen.number in front_of(points, "size")
        assert chosen.drop.points == min(point.drop.points for point in within if point.bytes == chosen.bytes)


def test_the_closest_point_breaks_its_worst_bound_least() -> None:
    bounds = Bounds(max_drop=0.5, max_size=100)
    rows = [(2.0, 90), (0.6, 101), (0.0, 180)]
    points = []
    for number, (drop, size) in enumerate(rows):
        excess = bounds.excess(drop, size, None)
        broken = {name: by for name, by in excess.items() if by > 0}
        points.append(Point(number, "", {}, Drop(drop, 0, 0), size, None, 1.0, broken))
    closest = closest_of(points, bounds)
    assert closest is not None
    assert closest.number == 1
    assert set(closest.broken) == {"drop", "size"}
    assert Bounds(1, max_cost=0.9).excess(0, 1, 1.0)["cost"] == pytest.approx(1 / 9)
