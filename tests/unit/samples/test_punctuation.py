"""samples/punctuation: texts are cleaned, cut and split as the README says, and scores show each planted error."""

from __future__ import annotations

import importlib
import io
import math
import random
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.distill.pairs import Pair, encode, open_tokenizers, read_pairs
from edgellm.stages.texts import ensure_disjoint

FOLDER = Path(__file__).parents[3] / "samples" / "punctuation"
NAMES = ("spoken", "data", "report")
NOUNS = (
    "Congress",
    "peace",
    "the Treasury",
    "our people",
    "commerce",
    "the Army",
    "labor",
    "Mexico",
    "roads",
    "schools",
)
VERBS = ("needs", "asks for", "has", "gives", "wants", "owes", "bears", "sees")

SPEECH = """Mr. Speaker, my fellow citizens: [Applause] the year now ending\x02 was \u201cgood,\u201d I\u2019d say(Laughter).
Our exports\u2014by far&mdash;reached $1,000,000.50, or 5%. FOREIGN POLICY. We will not yield.We ask:
Why not? To the U.S., at 9:30!
"""


@pytest.fixture(scope="module")
def sample() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for name in NAMES:
            patch.delitem(sys.modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name, None)


def address(seed: int, sentences: int = 60) -> str:
    """Return a speech that no other seed gives."""
    drawn = random.Random(seed)
    said = []
    for number in range(sentences):
        first, second, third = (drawn.choice(NOUNS) for _ in range(3))
        text = f"{first} {drawn.choice(VERBS)} {second}, and {third} {drawn.choice(VERBS)} {drawn.randint(2, 99)} of {number}"
        said.append(text[0].upper() + text[1:] + drawn.choice(".?;"))
    return " ".join(said)


@pytest.fixture(scope="module")
def texts(sample: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Addresses out of an archive like the package's."""
    archive = tmp_path_factory.mktemp("sotu") / "a.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for number in range(60):
            content = address(number).encode()
            for name in (
                f"package/data/{1800 + number}_some_body_w.txt",
                f"package/data/{1800 + number}_some_body_w.json",
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    found: dict[str, list[str]] = sample["data"].addresses(archive)
    return found


def test_only_words_are_kept_and_what_is_none_ends_a_stretch(sample: dict[str, ModuleType]) -> None:
    assert sample["spoken"].clean(SPEECH) == [
        "Mr. Speaker, my fellow citizens: the year now",
        "was good, I'd say. Our exports", "by far", "reached $1,000,000.50, or 5%.",
        "We will not yield. We ask: Why not? To the U.S., at 9:30!",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("Fellow-Citizens,", True), ("U.S.-Soviet", True), ("R&D", True), ("etc.,", True), ("workers'", True), ("1/2", True),
        ("'til", True), ("......", False), ("+", False), ("1859.-Riots", False), ("a..", False), ("@@", False), ("54°", False),
    ],
)  # fmt: skip
def test_words_that_are_kept(sample: dict[str, ModuleType], word: str, kept: bool) -> None:
    assert sample["spoken"].clean(f"a {word} b") == ([f"a {word} b"] if kept else ["a", "b"])


def test_spoken_words_have_no_case_and_no_marks_but_those_of_numbers(sample: dict[str, ModuleType]) -> None:
    assert sample["spoken"].spoken("The U.S., etc.; by 1,000.50. At 9:30? McKinley's D.C.-area 1800s.") == (
        "the us etc by 1,000.50 at 9:30 mckinley's dc-area 1800s"
    )


@given(st.text(alphabet=st.sampled_from("aZé09 .,;:?!'$%&-/\"()[]\u2014\u2019\n\t+_")))
def test_each_clean_word_has_one_spoken_word(sample: dict[str, ModuleType], text: str) -> None:
    spoken, marks = sample["spoken"].spoken, sample["spoken"].MARKS
    for stretch in sample["spoken"].clean(text):
        said = spoken(stretch)
        assert stretch == " ".join(stretch.split())
        assert len(said.split(" ")) == len(stretch.split(" "))
        assert spoken(said) == said == said.lower()
        assert not any(set(word) & set(marks) for word in said.split() if not re.search(r"\d", word))
        assert sample["spoken"].clean(stretch) in ([stretch], []) or "-" in stretch or stretch.isupper()


def test_pieces_follow_each_other_and_some_begin_as_sentences_do(sample: dict[str, ModuleType]) -> None:
    words, stretch = sample["spoken"], address(7, 400)
    found = list(words.pieces(stretch, random.Random(1)))
    assert stretch.startswith(" ".join(found))
    assert len(" ".join(found).split()) > len(stretch.split()) - words.LEAST
    lengths = [len(piece.split()) for piece in found]
    assert min(lengths) >= words.LEAST
    assert max(lengths) == words.WORDS
    begins = [piece for piece, before in zip(found[1:], found, strict=False) if before[-1] in ".?"]
    assert len(found) / 4 < len(begins) < len(found) * 3 / 4


def test_a_table_is_no_text(sample: dict[str, ModuleType]) -> None:
    assert list(sample["spoken"].pieces("Rivers 1,227 44 2,217 Army 3 9 1,800.00 roads", random.Random(1))) == []


def test_an_address_is_in_one_part_with_all_its_pieces(
    sample: dict[str, ModuleType], texts: dict[str, list[str]]
) -> None:
    part_of, split = sample["data"].part_of, sample["data"].split
    assert len(texts) == 60
    parts = split(texts)
    assert all(parts.values())
    for part, pieces in parts.items():
        own = " | ".join(stretch for name, stretches in texts.items() if part_of(name) == part for stretch in stretches)
        assert all(piece in own for piece in pieces), part
    assert split(dict(reversed(texts.items()))) == parts
    assert split({name: texts[name] for name in texts if part_of(name) != "train"}) == {**parts, "train": []}


def test_what_addresses_share_is_measured_and_not_learned(
    sample: dict[str, ModuleType], texts: dict[str, list[str]]
) -> None:
    names = {
        part: next(name for name in texts if sample["data"].part_of(name) == part) for part in ("test", "dev", "train")
    }
    quoted = address(999, 20)
    parts = sample["data"].split({name: [quoted, *texts[name]] for name in names.values()})
    assert [part for part, pieces in parts.items() if any(piece in quoted for piece in pieces)] == ["test"]
    ensure_disjoint(**{part: [sample["spoken"].spoken(piece) for piece in pieces] for part, pieces in parts.items()})


@pytest.fixture(scope="module")
def written(
    sample: dict[str, ModuleType], texts: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("out")
    sample["data"].write(out, sample["data"].split(texts))
    return out


def test_files_are_what_distilling_and_building_read(sample: dict[str, ModuleType], written: Path) -> None:
    pairs = {part: read_pairs(written / f"{part}.tsv") for part in ("train", "dev", "test")}
    assert all(pair.text == sample["spoken"].spoken(pair.target) for rows in pairs.values() for pair in rows)
    chosen = {name: (written / f"{name}.txt").read_text().splitlines() for name in ("calibration", "golden")}
    assert {*chosen["calibration"], *chosen["golden"]} <= {pair.text for pair in pairs["train"]}
    ensure_disjoint(**chosen)
    encoded = encode(pairs["dev"], open_tokenizers(written / "tokenizer"), slots=2, longest=64, unknown=1)
    assert len(encoded.examples) == len(pairs["dev"])


def test_the_blank_is_the_first_piece(written: Path) -> None:
    vocabulary = open_tokenizers(written / "tokenizer")[0].get_vocab()
    assert (vocabulary["<pad>"], vocabulary["<unk>"]) == (0, 1)


@given(st.text(alphabet=st.sampled_from("abcXYZ0189 .,;:?!'$%&-/")))
def test_every_clean_text_is_read_back(sample: dict[str, ModuleType], written: Path, text: str) -> None:
    tokenizer, _ = open_tokenizers(written / "tokenizer")
    for stretch in sample["spoken"].clean(text):
        for form in (stretch, sample["spoken"].spoken(stretch)):
            ids = tokenizer.encode(form).ids
            assert not {0, 1} & set(ids)
            assert tokenizer.decode(ids) == form


def scored(sample: dict[str, ModuleType], *rows: tuple[str, str]) -> object:
    """Return the scores of (target, what was written)."""
    pairs = [Pair(sample["spoken"].spoken(target), target) for target, _ in rows]
    return sample["report"].score(pairs, [said for _, said in rows])


RIGHT = ("My fellow citizens, the year ends. Why?", "My fellow citizens, the year ends. Why?")


def test_what_is_right_scores_full_marks(sample: dict[str, ModuleType]) -> None:
    found = scored(sample, RIGHT)
    assert found.counts == {".": 1, ",": 1, "?": 1, "!": 0, ";": 0, ":": 0, "capital": 2}
    assert [kind for kind, f1 in found.f1.items() if f1 == 1] == [".", ",", "?", "capital"]
    assert all(math.isnan(found.f1[kind]) for kind in "!;:")
    assert (found.exact, found.changed_texts, found.changed_words, found.chrf) == (1, 0, 0, 100)


@pytest.mark.parametrize(
    ("said", "f1", "changed"),
    [
        ("My fellow citizens the year ends. Why?", {",": 0}, 0),
        ("My fellow citizens, the year, ends. Why?", {",": 2 / 3}, 0),
        ("My fellow Citizens, the year ends. Why?", {"capital": 4 / 5}, 0),
        ("My fellow citizens, the year ends? Why?", {".": 0, "?": 2 / 3}, 0),
        ("My fellow citizens! The year ends. Why?", {",": 0, "!": 0, "capital": 4 / 5}, 0),
        ("My fellow citizen, the year ends. Why?", {}, 1),
        ("My citizens, the year ends. Why?", {}, 1),
        ("My fellow fellow citizens, the year ends. Why?", {}, 1),
        ("My fellow citizens, the the, year ends. Why?", {",": 2 / 3}, 1),
        ("My fellow citizens, the year ends.", {"?": 0, "capital": 2 / 3}, 1),
        ("My fellow citizens , the year ends. Why?", {}, 0),
        ("", {".": 0, ",": 0, "?": 0, "capital": 0}, 7),
    ],
)
def test_planted_errors_show_where_they_are(
    sample: dict[str, ModuleType], said: str, f1: dict[str, float], changed: int
) -> None:
    found = scored(sample, (RIGHT[0], said))
    assert {kind: value for kind, value in found.f1.items() if value < 1} == pytest.approx(f1)
    assert found.changed_words == pytest.approx(changed / 7)
    assert (found.exact, found.changed_texts) == (0, float(changed > 0))
    assert found.chrf < 100 or said == "My fellow citizens , the year ends. Why?"  # chrF counts no spaces
    both = scored(sample, RIGHT, (RIGHT[0], said))
    assert (both.exact, both.changed_texts) == (0.5, found.changed_texts / 2)


def test_words_keep_their_places_beside_a_garbled_one(sample: dict[str, ModuleType]) -> None:
    assert sample["report"].place("My fellow citizens, hello.", "My felow citizens, oh, hello.") == [
        ("My", "My"), ("fellow", "felow"), ("citizens,", "citizens,"), ("", "oh,"), ("hello.", "hello."),
    ]  # fmt: skip


def test_the_baseline_is_a_capital_and_a_full_stop(sample: dict[str, ModuleType]) -> None:
    assert sample["report"].baseline("the year ends") == "The year ends."
    shown = sample["report"].table({"baseline": scored(sample, (RIGHT[0], sample["report"].baseline("why")))})
    assert shown.splitlines()[0].startswith("| | `.` | `,` | `?` | `!` | `;` | `:` | capital |")
    assert "| n/a |" in shown
