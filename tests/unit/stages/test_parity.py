"""The bundle's tokenizer against transformers' for the source: alike for every kind, and each planted fault is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.errors import GateError
from edgellm.runtime import session
from edgellm.stages import parity
from edgellm.stages.parity import Comparison, compare, corpus, ensure_parity
from edgellm.stages.reference import write_tokenizer
from edgellm.stages.references import files_beside, load_references
from edgellm.stages.source import SourceModel
from tests.tokenizers import KINDS, source_of, write_source

MAX_TOKENS = 48
TEXTS = 100
Made = Callable[..., SourceModel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a source of a kind, its tokenizer.json padded and cut by itself; written once, not to be changed."""
    found: dict[tuple[str, bool], SourceModel] = {}

    def source(kind: str, *, lowercase: bool = False) -> SourceModel:
        if (kind, lowercase) not in found:
            folder = tmp_path_factory.mktemp("source") / kind
            found[kind, lowercase] = source_of(write_source(kind, folder, lowercase=lowercase))
        return found[kind, lowercase]

    return source


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TEXTS", 60)


def copy(source: SourceModel, folder: Path) -> Path:
    """Return a copy of a source's folder that a test may change."""
    return Path(shutil.copytree(Path(source.tokenizer).parent, folder / "source"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def written(source: SourceModel, folder: Path, change: Callable[[dict[str, Any]], None] = lambda data: None) -> Path:
    """Write the bundle's tokenizer, and plant a fault in it."""
    path = folder / "tokenizer.json"
    write_tokenizer(source, path)
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")
    return path


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_alike(made: Made, tmp_path: Path, kind: str, lowercase: bool) -> None:
    source = made(kind, lowercase=lowercase)
    baked = json.loads(Path(source.tokenizer).read_text("utf-8"))
    assert baked["padding"]
    assert baked["truncation"]
    found = compare(source, written(source, tmp_path), MAX_TOKENS, corpus(source, TEXTS))
    assert [str(mismatch) for mismatch in found.mismatches] == []
    assert (found.texts, found.notes) == (TEXTS, ())


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("wordpiece", ("BertTokenizer", "BertTokenizerLegacy")),
        ("byte-level", ("RobertaTokenizer",)),
        ("xlm-roberta", ("XLMRobertaTokenizer",)),
        ("generic", ("TokenizersBackend",)),
    ],
)
def test_it_is_compared_with_what_transformers_loads(
    made: Made, tmp_path: Path, kind: str, classes: tuple[str, ...]
) -> None:
    assert tuple(ensure_parity(made(kind), written(made(kind), tmp_path), MAX_TOKENS).compared) == classes


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
FAMILIAR = st.text(st.sampled_from("the kettle BOOTS éİΣς ﬁ日本가\0\t\u200d\u0301🐟##▁[]<s>/"), max_size=150)
SPECIAL = st.lists(
    st.sampled_from(["[CLS]", "[MASK]", "<s>", "<mask>", "</s>", "<pad>", "<extra_id_0>", " ", "x", "[cls]", "<S>"]),
    max_size=8,
).map("".join)
LONG = st.builds(lambda text, times: text * times, st.text(st.sampled_from("aé日-Σ"), max_size=5), st.integers(1, 300))


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("kind", ["wordpiece", "cased", "byte-level", "unigram", "xlm-roberta"])
def test_any_texts_are_alike(made: Made, tmp_path: Path, kind: str, lowercase: bool) -> None:
    source = made(kind, lowercase=lowercase)
    comparison = Comparison(source, written(source, tmp_path), MAX_TOKENS)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(texts=st.lists(ANY | FAMILIAR | SPECIAL | LONG, min_size=1, max_size=6))
    def check(texts: list[str]) -> None:
        assert [str(mismatch) for mismatch in comparison.texts(texts)] == []

    check()


def test_one_changed_id_is_found_in_all_the_vocabulary(made: Made, tmp_path: Path) -> None:
    def swap(data: dict[str, Any]) -> None:
        vocabulary = data["model"]["vocab"]
        last, before = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
        vocabulary[last], vocabulary[before] = vocabulary[before], vocabulary[last]

    with pytest.raises(GateError, match=r"differs from the source's in \d+ encodings of 60 texts.*vocabulary"):
        ensure_parity(made("wordpiece"), written(made("wordpiece"), tmp_path, swap), MAX_TOKENS)


def test_the_message_shows_the_text_the_place_and_both_tokens(made: Made, tmp_path: Path) -> None:
    def forget(data: dict[str, Any]) -> None:
        data["normalizer"]["lowercase"] = False

    source = made("wordpiece")
    found = compare(source, written(source, tmp_path, forget), MAX_TOKENS, ["the", "THE\0 " + "the " * 40])
    assert str(found.mismatches[0]) == (
        r"'THE\x00 the the the the the the the the the the the the the ...', cut to 48 tokens: ids at position 1: "
        "'[UNK]' (1) in the bundle, 'the' (NN) in transformers' BertTokenizer"
    ).replace("NN", str(json.loads(Path(source.tokenizer).read_text())["model"]["vocab"]["the"]))


def drop_types(data: dict[str, Any]) -> None:
    for part in data["post_processor"]["pair"]:
        next(iter(part.values()))["type_id"] = 0


def drop_special(data: dict[str, Any]) -> None:
    data["post_processor"]["single"] = data["post_processor"]["single"][:-1]


def forget_added(data: dict[str, Any]) -> None:
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "[MASK]"]


@pytest.mark.parametrize(("fault", "what"), [(drop_types, "token types"), (drop_special, "ids"), (forget_added, "ids")])
def test_a_part_left_out_is_found(made: Made, tmp_path: Path, fault: Any, what: str) -> None:
    source = made("wordpiece")
    found = compare(source, written(source, tmp_path, fault), MAX_TOKENS, corpus(source, TEXTS)).mismatches
    assert what in {mismatch.what for mismatch in found}


@pytest.mark.parametrize("kind", ["byte-level", "xlm-roberta"])
def test_another_space_before_a_text_is_found(made: Made, tmp_path: Path, kind: str) -> None:
    def space(data: dict[str, Any]) -> None:
        if kind == "byte-level":
            data["pre_tokenizer"]["add_prefix_space"] = True
        else:
            data["pre_tokenizer"]["pretokenizers"][1]["prepend_scheme"] = "never"

    with pytest.raises(GateError):
        ensure_parity(made(kind), written(made(kind), tmp_path, space), MAX_TOKENS)


@pytest.mark.parametrize("kind", ["cased", "byte-level", "xlm-roberta"])
def test_dropped_lower_casing_is_found(made: Made, tmp_path: Path, kind: str) -> None:
    source = made(kind, lowercase=True)
    with pytest.raises(GateError):
        ensure_parity(source, written(dataclasses.replace(source, lowercase=False), tmp_path), MAX_TOKENS)


def test_lower_casing_letter_by_letter_is_found(made: Made, tmp_path: Path) -> None:
    def forget_sigma(data: dict[str, Any]) -> None:
        del data["normalizer"]["normalizers"][0]

    source = made("byte-level", lowercase=True)
    assert not compare(source, written(source, tmp_path), MAX_TOKENS, ["ΟΔΟΣ Α.Σ. ΣΑΣΑ"]).mismatches
    assert compare(source, written(source, tmp_path, forget_sigma), MAX_TOKENS, ["ΟΔΟΣ Α.Σ. ΣΑΣΑ"]).mismatches


@pytest.mark.parametrize(("kind", "text"), [("cased", "a [MASK] b"), ("byte-level", "a <S> b")])
def test_a_special_token_that_is_no_longer_one_in_lower_case_is_found(
    made: Made, tmp_path: Path, kind: str, text: str
) -> None:
    source = made(kind, lowercase=True)

    def keep(data: dict[str, Any]) -> None:
        data["added_tokens"] = json.loads(Path(source.tokenizer).read_text("utf-8"))["added_tokens"]

    assert not compare(source, written(source, tmp_path), MAX_TOKENS, [text]).mismatches
    assert compare(source, written(source, tmp_path, keep), MAX_TOKENS, [text]).mismatches


def test_a_source_cut_at_the_start_is_found(made: Made, tmp_path: Path) -> None:
    folder = copy(made("wordpiece"), tmp_path)
    edit(folder / "tokenizer_config.json", truncation_side="left")
    source = source_of(folder)
    with pytest.raises(GateError, match="always cut at the end"):
        ensure_parity(source, written(source, tmp_path), MAX_TOKENS)


def test_a_source_padded_at_the_start_is_alike(made: Made, tmp_path: Path) -> None:
    folder = copy(made("wordpiece"), tmp_path)
    edit(folder / "tokenizer_config.json", padding_side="left")
    source = source_of(folder)
    ensure_parity(source, written(source, tmp_path), MAX_TOKENS)


def test_padding_in_the_wrong_place_is_found(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_the_start(feeds: session.Feeds, *args: Any) -> session.Feeds:
        length = next(iter(feeds.values())).shape[1]
        return {name: row[:, ::-1] for name, row in padded(feeds, *args).items()} if length < MAX_TOKENS else feeds

    padded = session.pad
    monkeypatch.setattr(parity, "pad", at_the_start)
    found = compare(made("wordpiece"), written(made("wordpiece"), tmp_path), MAX_TOKENS, ["short"]).mismatches
    assert {mismatch.what for mismatch in found} == {"padded mask"}


def test_files_beside_that_contradict_tokenizer_json_are_found(made: Made, tmp_path: Path) -> None:
    folder = copy(made("wordpiece"), tmp_path)
    edit(folder / "tokenizer_config.json", do_lower_case=False)
    source = source_of(folder)
    with pytest.raises(GateError, match=r"files beside it may contradict"):
        ensure_parity(source, written(source, tmp_path), MAX_TOKENS)


def test_the_two_ways_out_of_a_contradiction_work(made: Made, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = copy(made("wordpiece"), tmp_path)
    (folder / "vocab.txt").unlink()
    edit(folder / "tokenizer_config.json", do_lower_case=False)
    transformers_is_right = shutil.copytree(folder, tmp_path / "saved")
    AutoTokenizer.from_pretrained(transformers_is_right, local_files_only=True).save_pretrained(transformers_is_right)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    for way in (transformers_is_right, folder):
        source = source_of(way)
        ensure_parity(source, written(source, tmp_path), MAX_TOKENS)


def test_a_vocabulary_of_another_model_is_found_by_the_tokenizer_in_python(made: Made, tmp_path: Path) -> None:
    folder = copy(made("wordpiece"), tmp_path)
    lines = (folder / "vocab.txt").read_text("utf-8").split("\n")
    lines[20], lines[21] = lines[21], lines[20]
    (folder / "vocab.txt").write_text("\n".join(lines), "utf-8")
    source = source_of(folder)
    with pytest.raises(GateError, match="BertTokenizerLegacy"):
        ensure_parity(source, written(source, tmp_path), MAX_TOKENS)


def test_an_empty_second_text_is_none_as_in_transformers(made: Made, tmp_path: Path) -> None:
    source = made("byte-level")
    texts = ["first", "", "x", "y", "z", "second", ""]  # every fifth text is paired with the next
    assert compare(source, written(source, tmp_path), MAX_TOKENS, texts).mismatches == ()


def test_tokenizer_json_alone_is_all_there_is(made: Made, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(made("byte-level").tokenizer, alone / "tokenizer.json")
    source = dataclasses.replace(made("byte-level"), folder=None, tokenizer=str(alone / "tokenizer.json"))
    found = ensure_parity(source, written(source, tmp_path), MAX_TOKENS)
    assert (list(found.compared), found.notes) == (["TokenizersBackend"], ())


def test_a_tokenizer_saved_without_its_model_is_loaded_by_its_class(made: Made, tmp_path: Path) -> None:
    folder = copy(made("byte-level"), tmp_path)
    (folder / "config.json").unlink()
    source = dataclasses.replace(made("byte-level"), folder=None, tokenizer=str(folder / "tokenizer.json"))
    assert ensure_parity(source, written(source, tmp_path), MAX_TOKENS).compared.keys() == {"RobertaTokenizer"}


def test_a_tokenizer_that_transformers_does_not_load_is_noted(made: Made, tmp_path: Path) -> None:
    folder = copy(made("generic"), tmp_path)
    (folder / "config.json").unlink()
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["own_code.Tokenizer", None]},
        tokenizer_class="Own",
    )
    (folder / "own_code.py").write_text("raise SystemExit('this code ran')")
    source = dataclasses.replace(made("generic"), folder=None, tokenizer=str(folder / "tokenizer.json"))
    found = ensure_parity(source, written(source, tmp_path), MAX_TOKENS)
    assert found.notes[0].startswith(
        "transformers does not load the source's tokenizer, so that the bundle's was compared"
    )


def test_ids_that_the_model_has_no_row_for_are_not_asked_for(made: Made, tmp_path: Path) -> None:
    folder = copy(made("generic"), tmp_path)
    edit(folder / "tokenizer_config.json", mask_token="<mask>")  # transformers adds it after the last row
    source = source_of(folder)
    assert (
        compare(
            source, written(source, tmp_path), MAX_TOKENS, ["a <mask> b", "<mask>", "x " * 60 + "<mask>", "y"]
        ).mismatches
        == ()
    )


def test_what_lies_beside_tokenizer_json_is_known_by_its_content(made: Made, tmp_path: Path) -> None:
    folder = copy(made("wordpiece"), tmp_path)
    before = files_beside(folder / "tokenizer.json")
    assert {"config.json", "tokenizer_config.json", "vocab.txt"} <= before.keys()
    edit(folder / "tokenizer_config.json", do_lower_case=False)
    assert files_beside(folder / "tokenizer.json") != before


@pytest.mark.parametrize(
    ("kind", "text"),
    [("wordpiece", "return t\u0312r\u166d and"), ("cased", "boa\x00\u0301 and"), ("cased", "boa\u0301 and")],
)
def test_what_python_and_the_library_have_other_tables_for_is_compared_with_the_library_alone(
    made: Made, kind: str, text: str
) -> None:
    references, _ = load_references(made(kind))
    assert {reference.name: reference.comparable(text) for reference in references} == {
        "BertTokenizer": True,
        "BertTokenizerLegacy": False,
    }
