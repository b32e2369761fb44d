"""token-classification: the pipeline's rules on hand-made logits, windows put together, words and their tags."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError, UsageError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.tasks import Facts, _entities, load_task
from tests.tiny import TEXTS, tiny_tokenizer

TASK = load_task("token-classification")
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
UNKNOWN = 1
FUZZ = settings(max_examples=150, deadline=None)


def options(overlap: int | None = 4, labels: tuple[str, ...] = LABELS) -> TaskOptions:
    return TaskOptions(labels=labels, overlap=overlap, unknown_id=UNKNOWN)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = tiny_tokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer(path, 64)


def logits(*labels: int, sure: float = 4.0) -> Any:
    """Return outputs in which each token has one label, with special tokens around them."""
    rows = np.zeros((1, len(labels) + 2, len(LABELS)), dtype=np.float32)
    for place, label in enumerate(labels, 1):
        rows[0, place, label] = sure
    return {"logits": rows}


def decode(raw: Any, tokenizer: Tokenizer, *outputs: Any, given: TaskOptions | None = None) -> Any:
    given = given or options()
    return TASK.decode(raw, TASK.encode(raw, tokenizer, given), outputs, given, tokenizer)


def asking(text: str, strategy: str = "none", ignored: Any = None) -> Any:
    return {"text": text, "aggregation_strategy": strategy, "ignore_labels": ignored}


def test_tokens_keep_their_places_in_the_text(tokenizer: Tokenizer) -> None:
    value = decode("the red 7x", tokenizer, logits(0, 1, 2, 3))
    assert [(item["entity"], item["index"], item["word"], item["start"], item["end"]) for item in value] == [
        ("B-PER", 2, "red", 4, 7), ("I-PER", 3, "7", 8, 9), ("B-LOC", 4, "##x", 9, 10),
    ]  # fmt: skip
    assert list(value[0]) == ["entity", "score", "index", "word", "start", "end"]
    assert value[0]["score"] == pytest.approx(np.exp(4) / (np.exp(4) + 4))
    assert all(type(item["score"]) is float for item in value)


def test_an_unknown_token_is_written_as_the_text_has_it(tokenizer: Tokenizer) -> None:
    value = decode("the 🐟", tokenizer, logits(0, 1))
    assert [(item["word"], item["start"], item["end"]) for item in value] == [("🐟", 4, 5)]


def test_a_text_without_tokens_has_no_entities(tokenizer: Tokenizer) -> None:
    for strategy in _entities.STRATEGIES:
        assert decode(asking("", strategy), tokenizer, logits()) == []


@pytest.mark.parametrize(
    ("strategy", "tags", "expected"),
    [
        ("simple", (1, 2, 2, 0), [("PER", "red 7x", 0, 6)]),
        ("simple", (1, 1, 2, 0), [("PER", "red", 0, 3), ("PER", "7x", 4, 6)]),  # B begins another one
        ("simple", (2, 4, 4, 0), [("PER", "red", 0, 3), ("LOC", "7x", 4, 6)]),
        ("simple", (0, 1, 3, 0), [("PER", "7", 4, 5), ("LOC", "##x", 5, 6)]),
        ("first", (0, 1, 3, 0), [("PER", "7x", 4, 6)]),
        ("max", (0, 1, 2, 0), [("PER", "7x", 4, 6)]),
        ("average", (0, 1, 1, 0), [("PER", "7x", 4, 6)]),
        ("first", (1, 2, 0, 2), [("PER", "red 7x boots", 0, 12)]),
    ],
)
def test_entities_are_put_together(
    tokenizer: Tokenizer, strategy: str, tags: tuple[int, ...], expected: list[tuple[object, ...]]
) -> None:
    value = decode(asking("red 7x boots", strategy), tokenizer, logits(*tags))
    assert [(item["entity_group"], item["word"], item["start"], item["end"]) for item in value] == expected
    assert all(list(item) == ["entity_group", "score", "word", "start", "end"] for item in value)


def test_the_surest_token_of_a_word_decides_where_that_is_asked(tokenizer: Tokenizer) -> None:
    rows = logits(0, 1, 3)["logits"]
    rows[0, 3] *= 2
    value = decode(asking("red 7x", "max"), tokenizer, {"logits": rows})
    assert [(item["entity_group"], item["word"]) for item in value] == [("LOC", "7x")]
    value = decode(asking("red 7x", "average"), tokenizer, {"logits": rows})
    assert [item["entity_group"] for item in value] == ["LOC"]
    assert value[0]["score"] == pytest.approx((np.exp(8) / (np.exp(8) + 4) + 1 / (np.exp(4) + 4)) / 2)


def test_labels_are_ignored_by_tag_or_by_entity(tokenizer: Tokenizer) -> None:
    outputs = logits(0, 1, 4)
    assert [item["entity"] for item in decode(asking("the red road", ignored=[]), tokenizer, outputs)] == [
        "O", "B-PER", "I-LOC",
    ]  # fmt: skip
    assert [item["entity"] for item in decode(asking("the red road", ignored=["B-PER"]), tokenizer, outputs)] == [
        "O", "I-LOC",
    ]  # fmt: skip
    grouped = decode(asking("the red road", "simple", ["PER"]), tokenizer, outputs)
    assert [item["entity_group"] for item in grouped] == ["O", "LOC"]


def test_what_is_no_number_is_never_ignored_and_never_agrees(tokenizer: Tokenizer) -> None:
    broken = logits(0)
    broken["logits"][:] = np.nan
    for strategy in _entities.STRATEGIES:
        value = decode(asking("the", strategy), tokenizer, broken)
        assert len(value) == 1
        assert TASK.agree([], value, options()) == 0


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (7, "takes an object"),
        ({"aggregation_strategy": "simple"}, "lacks text"),
        ({"text": 7}, "text is a number"),
        (asking("x", "frist"), "Did you mean 'first'"),
        (asking("x", ignored="O"), "ignore_labels is a text"),
        (asking("x", ignored=[3]), "an item of ignore_labels is a number"),
        ({"text": "x", "stride": 3}, "stride"),
        ({"text": "red", "words": [[0, 3]], "ignore_labels": []}, "nothing is aggregated or ignored"),
        ({"text": "red", "words": [[0, 4]]}, r"words holds \[0, 4\]"),
        ({"text": "red", "words": [[1, 1]]}, r"words holds \[1, 1\]"),
        ({"text": "red", "words": [[0, 2], [1, 3]]}, r"words holds \[1, 3\]"),
        ({"text": "red", "words": [[0]]}, "an item of words is None"),
        ({"text": "red", "words": "red"}, "an item of words is None"),
    ],
)
def test_a_wrong_input_is_named(tokenizer: Tokenizer, raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.encode(raw, tokenizer, options())


def test_defaults_are_the_pipelines(tokenizer: Tokenizer) -> None:
    outputs = logits(0, 1, 2)
    assert decode("red 7x", tokenizer, outputs) == decode(
        {"text": "red 7x", "aggregation_strategy": None, "ignore_labels": None}, tokenizer, outputs
    )


@FUZZ
@given(
    text=st.text(st.sampled_from("the red boots 7x9é🐟  \n"), max_size=120) | st.sampled_from(TEXTS),
    limit=st.integers(4, 20),
    overlap=st.integers(0, 12),
)
def test_windows_together_are_the_whole_text(path: Path, text: str, limit: int, overlap: int) -> None:
    """The logits of a token say where it is, whatever window it is in, so that the whole is the same at any length."""
    whole = Tokenizer(path, 4096)
    small = whole.limited(limit)
    given = options(overlap)
    single = TASK.encode(text, whole, given)
    encodings = TASK.encode(text, small, given)
    assert not any(encoding.truncated for encoding in encodings)
    assert len(single) == 1
    count = len(single[0].ids) - 2

    def outputs(encoding: Any) -> Any:
        rows = np.zeros((1, len(encoding.ids), len(LABELS)), dtype=np.float32)
        for place, (start, _) in enumerate(encoding.offsets):
            rows[0, place, start % len(LABELS)] = 3.0
        return {"logits": rows}

    raw = asking(text, ignored=[])
    expected = TASK.decode(raw, single, [outputs(single[0])], given, whole)
    got: Any = TASK.decode(raw, encodings, [outputs(each) for each in encodings], given, small)
    assert got == expected
    assert [item["index"] for item in got] == list(range(1, count + 1))
    for item in got:
        written = text[item["start"] : item["end"]]
        assert written, item
        if written.isascii():
            assert item["word"] in (written.lower(), f"##{written.lower()}")


@FUZZ
@given(counts=st.integers(1, 60), room=st.integers(2, 12), overlap=st.integers(0, 12))
def test_a_token_is_taken_where_it_has_most_context(counts: int, room: int, overlap: int) -> None:
    shared = min(overlap, room // 2)
    starts = [0]
    while starts[-1] + room < counts:
        starts.append(starts[-1] + room - shared)
    windows = [range(start, min(start + room, counts)) for start in starts]

    def context(window: int, token: int) -> float:
        left = float("inf") if window == 0 else token - windows[window].start
        right = float("inf") if window == len(windows) - 1 else windows[window].stop - 1 - token
        return min(left, right)

    encodings: Any = [type("Window", (), {"texts": (None, *(0 for _ in window), None)})() for window in windows]
    taken = [(window, windows[window][place - 1]) for window, place in _entities._best(encodings, overlap)]
    assert [token for _, token in taken] == list(range(counts))
    for window, token in taken:
        best = max(context(other, token) for other in range(len(windows)) if token in windows[other])
        assert context(window, token) == best


def test_without_windows_a_text_is_cut_and_says_so(path: Path) -> None:
    encodings = TASK.encode("boots " * 40, Tokenizer(path, 8), options(None))
    assert [encoding.truncated for encoding in encodings] == [True]


def test_agreement_is_the_f1_of_tags_or_entities() -> None:
    def token(index: int, entity: str) -> dict[str, object]:
        return {"entity": entity, "score": 0.5, "index": index, "word": "x", "start": index, "end": index + 1}

    def entity(start: int, name: str) -> dict[str, object]:
        return {"entity_group": name, "score": 0.5, "word": "x", "start": start, "end": start + 1}

    x = [token(1, "A"), token(2, "B")]
    assert TASK.agree(x, x, options()) == 1
    assert TASK.agree(x, [token(1, "A"), token(2, "C")], options()) == 0.5
    assert TASK.agree(x, [token(1, "A")], options()) == pytest.approx(2 / 3)
    assert TASK.agree(x, [], options()) == 0
    assert TASK.agree([], [], options()) == 1
    assert TASK.agree([entity(0, "A")], [entity(0, "A")], options()) == 1
    assert TASK.agree([entity(0, "A")], [entity(1, "A")], options()) == 0


def test_options_follow_configuration_and_vocabulary() -> None:
    config = {"id2label": {"0": "O", "1": "B-PER"}}
    named = Facts(config, tokenizer={"unk_token": {"content": "??"}}, vocabulary={"??": 9, "[UNK]": 1})
    assert TASK.read_options(named) == TaskOptions(labels=("O", "B-PER"), unknown_id=9)
    old = Facts(config, vocabulary={"<unk>": 3})
    assert TASK.read_options(old).unknown_id == 3
    assert TASK.read_options(Facts(config, vocabulary={"a": 0})).unknown_id is None
    assert TASK.output_spec(config, TASK.read_options(old)).shape == (1, "tokens", 2)
    with pytest.raises(UsageError, match="--pooling belongs to feature-extraction"):
        TASK.read_options(Facts(config, pooling="mean"))


def test_a_row_is_words_and_their_tags(tokenizer: Tokenizer) -> None:
    row = {"tokens": ["red", "7x", "\x07", "boots"], "tags": ["B-PER", "I-PER", "O", "I-LOC"]}
    example = TASK.example(row, options())
    assert example.inputs == ({"text": "red 7x \x07 boots", "words": [[0, 3], [4, 6], [7, 8], [9, 14]]},)
    assert example.gold == ("B-PER", "I-PER", "O", "I-LOC")
    value = decode(example.inputs[0], tokenizer, logits(1, 2, 3, 4))  # the second half of 7x says B-LOC
    assert [(item["entity"], item["word"], item["start"], item["end"]) for item in value] == [
        ("B-PER", "red", 0, 3), ("I-PER", "7x", 4, 6), ("O", "\x07", 7, 8), ("I-LOC", "boots", 9, 14),
    ]  # fmt: skip
    prediction = TASK.predict([value], options())
    assert TASK.right is not None
    assert TASK.right(example.gold, prediction)
    wrong = TASK.predict([decode(example.inputs[0], tokenizer, logits(1, 3, 3, 4))], options())
    assert wrong == ("B-PER", "B-LOC", "O", "I-LOC")
    assert not TASK.right(example.gold, wrong)
    assert TASK.example({"tokens": "red boots", "tags": "O B-PER"}, options()).gold == ("O", "B-PER")


@FUZZ
@given(words=st.lists(st.text(st.sampled_from("aé🐟x7. \x07"), min_size=1, max_size=9), min_size=1, max_size=30))
def test_every_word_has_one_tag_and_it_is_its_first_token_s(path: Path, words: list[str]) -> None:
    tokenizer = Tokenizer(path, 12)
    example = TASK.example({"tokens": words, "tags": ["O"] * len(words)}, options())
    (raw,) = example.inputs
    assert isinstance(raw, dict)
    assert [raw["text"][start:end] for start, end in raw["words"]] == words
    outputs = []
    for encoding in TASK.encode(raw, tokenizer, options()):
        rows = np.zeros((1, len(encoding.ids), len(LABELS)), dtype=np.float32)
        for place, (start, _) in enumerate(encoding.offsets):
            rows[0, place, start % len(LABELS)] = 3.0
        outputs.append({"logits": rows})
    value = decode(raw, tokenizer, *outputs)
    whole = Tokenizer(path, 4096).encode(raw["text"])
    spans = [span for span, part in zip(whole.offsets, whole.texts, strict=True) if part is not None]
    for item, (start, end) in zip(value, raw["words"], strict=True):
        firsts = [first for first, last in spans if first < end and last > start]
        assert item["entity"] == (LABELS[firsts[0] % len(LABELS)] if firsts else "O")
        assert bool(item["score"]) == bool(firsts)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a"]}, "The column tags misses"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens and 1 tags"),
        ({"tokens": ["a"], "tags": ["X"]}, "knows no label 'X'"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "empty text"),
        ({"tokens": "", "tags": ""}, "empty text"),
        ({"tokens": [], "tags": []}, "a list of texts"),
    ],
)
def test_a_wrong_row_is_named(row: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.example(row, options())


def test_metrics_count_entities_and_words() -> None:
    gold = ("B-PER", "I-PER", "O", "B-LOC")
    half = ("B-PER", "O", "O", "B-LOC")
    assert TASK.metrics([gold], [gold]) == {"entity F1": 1, "precision": 1, "recall": 1, "word accuracy": 1}
    assert TASK.metrics([gold, gold], [gold, half]) == pytest.approx(
        {"entity F1": 0.75, "precision": 0.75, "recall": 0.75, "word accuracy": 7 / 8}
    )
    assert TASK.metrics([gold], [("B-PER", "I-PER", "O", "O")]) == pytest.approx(
        {"entity F1": 2 / 3, "precision": 1, "recall": 0.5, "word accuracy": 3 / 4}
    )
    assert list(TASK.metrics([gold], [("O",) * 4]).values()) == [0, 0, 0, 0.25]
    assert list(TASK.metrics([("O", "O")], [("O", "O")]).values()) == [0, 0, 0, 1]


TAGS = st.sampled_from(["O", "B-PER", "I-PER", "E-PER", "S-LOC", "I-LOC", "StreetName", "OccupancyType"])


@FUZZ
@given(rows=st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=8), min_size=1, max_size=6))
def test_scores_are_seqevals_and_scikit_learns(rows: list[list[tuple[str, str]]]) -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score
    from sklearn.metrics import accuracy_score

    golds, predictions = ([tuple(pair[side] for pair in row) for row in rows] for side in (0, 1))
    x, y = ([[_entities.chunk(tag) for tag in tags] for tags in side] for side in (golds, predictions))
    assert TASK.metrics(golds, predictions) == pytest.approx(
        {
            "entity F1": f1_score(x, y, zero_division=0),
            "precision": precision_score(x, y, zero_division=0),
            "recall": recall_score(x, y, zero_division=0),
            "word accuracy": accuracy_score([*chain(*golds)], [*chain(*predictions)]),
        }
    )


def test_labels_without_prefixes_are_entities_too() -> None:
    """Left to itself, seqeval would take OccupancyType for "O" and every StreetName for an entity of its own."""
    gold = ("AddressNumber", "StreetName", "StreetName", "OccupancyType")
    cut = ("AddressNumber", "StreetName", "OccupancyType", "OccupancyType")
    assert TASK.metrics([gold], [gold])["entity F1"] == 1
    assert TASK.metrics([gold], [cut])["entity F1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("O", "O"), ("B-PER", "B-PER"), ("I-a-b", "I-a-b"), ("U-PER", "S-PER"), ("L-PER", "E-PER"), ("X-PER", "I-X-PER"),
        ("B", "I-B"), ("B-", "I-B-"), ("OccupancyType", "I-OccupancyType"),
    ],
)  # fmt: skip
def test_a_label_is_handed_to_seqeval_with_a_prefix(label: str, expected: str) -> None:
    assert _entities.chunk(label) == expected
