"""Spellings of one name compare equal, and names of two families do not."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.students.names import given_names, is_missing, nicknames, surname


@pytest.mark.parametrize(
    ("written", "first", "middle"),
    [
        ("ana", "ANA", ()),
        ("  Ána   María ", "ANA", ("MARIA",)),
        ("Jean-Luc", "JEAN", ("LUC",)),
        ("D'Andre", "DANDRE", ()),
        ("Ludwig\u2019s", "LUDWIGS", ()),
        ("Łukasz", "LUKASZ", ()),
        ("Ñandú", "NANDU", ()),
        ("J.", "J", ()),
        ("지훈", "지훈", ()),
        ("दीपक", "दीपक", ()),
        ("दीपक कुमार", "दीपक", ("कुमार",)),
        ("\u0940", None, ()),
        ("none", None, ()),
        ("", None, ()),
        ("123", None, ()),
    ],
)
def test_a_first_name_is_its_first_word_in_plain_letters(
    written: str, first: str | None, middle: tuple[str, ...]
) -> None:
    name = given_names(written)
    assert (name.first, name.middle) == (first, middle)


def test_a_middle_name_follows_what_the_first_name_has() -> None:
    assert given_names("Ana María", "Luisa").middle == ("MARIA", "LUISA")
    assert given_names("Ana María", "María").middle == ("MARIA",)


@pytest.mark.parametrize("written", ["Garcia-Lopez", "LOPEZ GARCIA", "garcía lópez", "Lopez de la Garcia"])
def test_double_surnames_are_sets(written: str) -> None:
    assert surname(written).tokens == ("GARCIA", "LOPEZ")


def test_particles_are_no_surname_unless_there_is_no_other() -> None:
    assert set(surname("De la Cruz").tokens).isdisjoint(surname("de la Rosa").tokens)
    assert surname("De La").tokens == ("DE", "LA")


@pytest.mark.parametrize("written", ["King Jr.", "King, JR", "King Jr"])
def test_a_suffix_is_apart(written: str) -> None:
    assert (surname(written).joined, surname(written).suffix) == ("KING", "JR")
    assert given_names("Martin III").suffix == "III"


def test_somebody_may_be_called_by_a_suffix_alone() -> None:
    assert given_names("Jr").first == "JR"


def test_nicknames_stand_for_each_other() -> None:
    table = nicknames()
    assert "BILL" in table["WILLIAM"]
    assert all(name in table[other] for name, others in table.items() for other in others)


@pytest.mark.parametrize("text", ["", "  ", "None", "NULL", "nan", "N/A", "na", " Unknown "])
def test_these_words_say_nothing(text: str) -> None:
    assert is_missing(text)


@given(st.text(max_size=60))
def test_a_name_that_was_read_reads_the_same(text: str) -> None:
    joined = surname(text).joined
    if joined is not None and not is_missing(joined):
        assert surname(joined).tokens == surname(text).tokens


@given(st.text(st.sampled_from("aZé´'` -_.1²ßøŁ李ﬁ\u0301\u034f\u2019"), max_size=12))
def test_the_usual_names_are_read_as_all_others_are(text: str) -> None:
    """The steps that are left out for plain letters would have changed nothing."""
    assert surname(text).joined == (" ".join(plain_words(text)) or None)


def plain_words(text: str) -> list[str]:
    """The words of a name, letter by letter; none of them is a suffix."""
    if is_missing(text):
        return []
    kept = "".join(letter for letter in text if letter not in "'`\u2018\u2019\u02bc\u00b4")
    if not kept.isascii():
        kept = "".join(
            letter
            for letter in unicodedata.normalize("NFKD", kept)
            if not unicodedata.combining(letter) and letter != "\u034f"
        )
        kept = kept.upper().replace("Ø", "O").replace("Ł", "L")
    return "".join(letter if letter.isalnum() and not letter.isdecimal() else " " for letter in kept.upper()).split()
