"""Synthetic districts with files of candidates, whose truth is known: names of faker's pools, errors of our own rates.

A family has one surname, or two as in Spanish, and one to four children; their IDs follow each other, as those of
children who enrolled together do. A file's rows are students with errors; ``noise`` multiplies every rate of error.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cache
from importlib import import_module
from typing import Any

import orjson
import pyarrow as pa

from runway_pipelines.students.names import nicknames

TODAY = date(2026, 11, 1)
YEARS = (2025, 2026)
_HISPANIC = 0.5
_NOT_IN_ROSTER = 0.06
_TWINS = 0.016
_SPANISH_NICKNAMES = {  # none of them is in the package's table
    "JOSE": "PEPE", "FRANCISCO": "PACO", "GUADALUPE": "LUPITA", "GUILLERMO": "MEMO", "IGNACIO": "NACHO",
    "JESUS": "CHUY", "ALBERTO": "BETO", "ANTONIO": "TONO", "EDUARDO": "LALO", "ENRIQUE": "QUIQUE", "ROSARIO": "CHAYO",
}  # fmt: skip
_KEYBOARD = {
    "a": "sqz", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "kp", "m": "n", "n": "bm", "o": "ip", "p": "ol", "r": "et", "s": "ad", "t": "ry", "u": "yi",
    "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "xa",
}  # fmt: skip
_RESPELT = (
    ("ph", "f"),
    ("ck", "k"),
    ("ey", "y"),
    ("ie", "y"),
    ("z", "s"),
    ("v", "b"),
    ("y", "i"),
    ("ll", "l"),
    ("c", "k"),
)


@dataclass(frozen=True)
class Student:
    """A child as it is: ``earlier`` are surnames that the roster had before."""

    number: int
    first: str
    middle: str | None
    last: str
    suffix: str | None
    born: date
    sex: str
    school: int
    earlier_school: int
    grade: int
    family: int
    is_twin: bool = False
    earlier: str | None = None

    @property
    def unique_id(self) -> str:
        return str(1_200_000 + self.number)

    @property
    def local_id(self) -> str:
        return f"{410_000 + self.number:06d}"


@dataclass
class District:
    """The roster's students, and those who are not in it yet."""

    students: list[Student] = field(default_factory=list)
    newcomers: list[Student] = field(default_factory=list)


@dataclass
class File:
    """The lines of a file of candidates, and whose each is: None for one who is not in the roster."""

    lines: list[bytes] = field(default_factory=list)
    truth: dict[str, str | None] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)


def make_district(seed: int, students: int) -> District:
    """A district; the children who are not in the roster have brothers and sisters, and twins, who are."""
    chance = random.Random(f"district {seed}")
    district = District()
    number, family = 0, 0
    while len(district.students) < students:
        family += 1
        for child in _family(chance, family, max(4, students // 700)):
            child = replace(child, number=number)
            number += 1
            is_new = chance.random() < _NOT_IN_ROSTER
            (district.newcomers if is_new else district.students).append(child)
    return district


def make_tables(district: District, seed: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The warehouse's students, associations and codes."""
    chance = random.Random(f"tables {seed}")
    students: list[dict[str, Any]] = []
    schools: list[dict[str, Any]] = []
    codes: list[dict[str, Any]] = []
    for child in district.students:
        key = f"k{child.number}"
        for year in YEARS:
            students.append(
                {
                    "k_student_xyear": key,
                    "api_year": year,
                    "student_unique_id": child.unique_id,
                    "first_name": child.first,
                    "middle_name": child.middle,
                    "last_name": child.earlier if child.earlier and year == YEARS[0] else child.last,
                    "maiden_name": None,
                    "generation_code_suffix": child.suffix,
                    "birth_date": child.born,
                    "birth_sex": child.sex,
                    "is_multiple_birth": child.is_twin if chance.random() < 0.5 else None,
                }
            )
            schools.append(
                {
                    "k_student_xyear": key,
                    "api_year": year,
                    "school_id": str(child.school if year == YEARS[1] else child.earlier_school),
                    "entry_grade_level": str(child.grade - (year == YEARS[0])),
                }
            )
        codes.append({"k_student_xyear": key, "id_type": "Local", "id_code": child.local_id})
        codes.append({"k_student_xyear": key, "id_type": "State", "id_code": child.unique_id})
    return (
        pa.Table.from_pylist(students, schema=STUDENTS),
        pa.Table.from_pylist(schools, schema=SCHOOLS),
        pa.Table.from_pylist(codes, schema=CODES),
    )


STUDENTS = pa.schema(
    [
        ("k_student_xyear", pa.string()), ("api_year", pa.int32()), ("student_unique_id", pa.string()),
        ("first_name", pa.string()), ("middle_name", pa.string()), ("last_name", pa.string()),
        ("maiden_name", pa.string()), ("generation_code_suffix", pa.string()), ("birth_date", pa.date32()),
        ("birth_sex", pa.string()), ("is_multiple_birth", pa.bool_()),
    ]
)  # fmt: skip
SCHOOLS = pa.schema(
    [
        ("k_student_xyear", pa.string()),
        ("api_year", pa.int32()),
        ("school_id", pa.string()),
        ("entry_grade_level", pa.string()),
    ]
)
CODES = pa.schema([("k_student_xyear", pa.string()), ("id_type", pa.string()), ("id_code", pa.string())])


def make_file(district: District, seed: int, rows: int, noise: float, *, everything: bool = False) -> File:
    """A file of the district, with newcomers by their share. ``everything`` adds middle name, sex and grade."""
    chance = random.Random(f"file {seed} {noise}")
    newcomers = min(len(district.newcomers), round(rows * _NOT_IN_ROSTER))
    chosen = chance.sample(district.students, rows - newcomers) + chance.sample(district.newcomers, newcomers)
    chance.shuffle(chosen)
    known = {child.number for child in district.students}
    wrong_ids = _WrongIds(district, chance)
    notation = chance.choice((_compact, _slashes, date.isoformat, _serial, _short_year))
    file = File()
    for place, child in enumerate(chosen):
        row, kinds = _row(child, chance, noise, wrong_ids, notation, everything)
        candidate_id = f"{seed:04d}-{place:06d}"
        file.lines.append(orjson.dumps({"candidate_id": candidate_id} | row))
        file.truth[candidate_id] = child.unique_id if child.number in known else None
        file.kinds[candidate_id] = "+".join(kinds)
    return file


# Families.


def _family(chance: random.Random, family: int, schools: int) -> list[Student]:
    is_hispanic = chance.random() < _HISPANIC
    surname = _surname(chance, is_hispanic)
    other = f"{surname}-{_surname(chance, is_hispanic)}" if chance.random() < 0.5 else _surname(chance, is_hispanic)
    school = chance.randrange(schools)
    children: list[Student] = []
    born = date(2008, 1, 1) + timedelta(days=chance.randrange(3300))
    for _ in range(chance.choices((1, 2, 3, 4), (45, 35, 15, 5))[0]):
        count = 2 if chance.random() < _TWINS / 2 else 1
        siblings: list[Student] = []
        for _ in range(count):
            taken = {child.first for child in (*children, *siblings)}
            sex = chance.choice(("Male", "Female"))
            first = _first_name(chance, is_hispanic, sex, taken, siblings)
            siblings.append(
                Student(
                    number=0,
                    first=first,
                    middle=_given(chance, is_hispanic, sex) if chance.random() < 0.7 else None,
                    last=surname,
                    suffix="Jr" if sex == "Male" and chance.random() < 0.03 else None,
                    born=born,
                    sex=sex,
                    school=school,
                    earlier_school=school if chance.random() < 0.85 else chance.randrange(schools),
                    grade=max(-1, min(12, TODAY.year - born.year - 5)),
                    family=family,
                    is_twin=count > 1,
                    earlier=other if chance.random() < 0.02 else None,
                )
            )
        children += siblings
        born += timedelta(days=chance.randrange(330, 1800))
    return [child for child in children if child.born < date(2022, 1, 1)]


def _first_name(chance: random.Random, is_hispanic: bool, sex: str, taken: set[str], twins: Sequence[Student]) -> str:
    """Some twins are called alike: by the same initial, a letter apart, or the same name with another one behind it."""
    for _ in range(200):
        name = _given(chance, is_hispanic, sex)
        if is_hispanic and chance.random() < 0.12:
            name = f"{name} {_given(chance, is_hispanic, sex)}"
        if twins and chance.random() < 0.3:
            name = f"{twins[0].first.split()[0]} {name.split()[0]}" if is_hispanic else _respell(chance, twins[0].first)
        elif twins and chance.random() < 0.4 and name[0] != twins[0].first[0]:
            continue
        if name not in taken:
            return name
    return f"{name} {_given(chance, is_hispanic, sex)}"


def _given(chance: random.Random, is_hispanic: bool, sex: str) -> str:
    names, weights = _pools()[f"{'es' if is_hispanic else 'en'} {sex}"]
    return chance.choices(names, cum_weights=weights)[0]


def _surname(chance: random.Random, is_hispanic: bool) -> str:
    names, weights = _pools()["es last" if is_hispanic else "en last"]
    one = chance.choices(names, cum_weights=weights)[0]
    if is_hispanic and chance.random() < 0.6:
        return f"{one} {chance.choices(names, cum_weights=weights)[0]}"
    if not is_hispanic and chance.random() < 0.05:
        return f"{one}-{chance.choices(names, cum_weights=weights)[0]}"
    return one


@cache
def _pools() -> dict[str, tuple[list[str], list[float]]]:
    """The names that faker has, with a long tail: the commonest is one in 30 or so, as in a census."""
    chance = random.Random("pools")
    pools: dict[str, tuple[list[str], list[float]]] = {}
    for language, places in {"en": ("en_US", "en_GB", "en_IN"), "es": ("es_MX", "es_ES", "es_AR")}.items():
        found: dict[str, set[str]] = defaultdict(set)
        for place in places:
            provider = import_module(f"faker.providers.person.{place}").Provider
            found["Male"] |= set(provider.first_names_male)
            found["Female"] |= set(provider.first_names_female)
            found["last"] |= set(provider.last_names)
        for kind, names in found.items():
            ordered = sorted(names)
            chance.shuffle(ordered)
            total, weights = 0.0, []
            for rank in range(len(ordered)):
                total += 1 / (rank + 4) ** 0.9
                weights.append(total)
            pools[f"{language} {kind}"] = (ordered, weights)
    return pools


# Rows.


class _WrongIds:
    """Whose ID gets into a row by mistake: the next one's of the school's list, a sibling's, or anybody's."""

    def __init__(self, district: District, chance: random.Random) -> None:
        self._chance = chance
        self._everybody = district.students
        self._lists: dict[int, list[Student]] = defaultdict(list)
        self._families: dict[int, list[Student]] = defaultdict(list)
        for child in sorted(district.students, key=lambda child: (child.last, child.first)):
            self._lists[child.school].append(child)
            self._families[child.family].append(child)
        self._places = {child.number: place for each in self._lists.values() for place, child in enumerate(each)}

    def instead_of(self, child: Student) -> Student:
        siblings = [each for each in self._families[child.family] if each.number != child.number]
        if siblings and self._chance.random() < 0.45:
            return self._chance.choice(siblings)
        neighbours = self._lists[child.school]
        if neighbours and child.number in self._places and self._chance.random() < 0.7:
            place = self._places[child.number] + self._chance.choice((-1, 1))
            return neighbours[place % len(neighbours)]
        return self._chance.choice(self._everybody)


def _row(
    child: Student, chance: random.Random, noise: float, wrong_ids: _WrongIds, notation: Any, everything: bool
) -> tuple[dict[str, Any], list[str]]:
    kinds: list[str] = []

    def happens(kind: str, rate: float) -> bool:
        if chance.random() < rate * noise:
            kinds.append(kind)
            return True
        return False

    first, last = _written_first(child, chance, happens), _written_last(child, chance, happens)
    if happens("names_swapped", 0.004):
        first, last = last, first
    school: str | None = str(child.school)
    if happens("school_missing", 0.03):
        school = None
    elif happens("school_other", 0.05):
        school = str(chance.randrange(1000))
    row = {
        "obs_first_name": first.lower() if chance.random() < 0.9 else first,
        "obs_last_name": last.lower() if chance.random() < 0.9 else last,
        "obs_birth_date": _written_date(child.born, chance, happens, notation),
        "obs_school_id": school,
        "obs_student_ids": str([_written_id(child, chance, happens, wrong_ids)] * 2),
        "record_count": "1",
    }
    if everything:
        row |= {"obs_middle_name": child.middle, "obs_sex": child.sex[0], "obs_grade": str(child.grade)}
    return row, kinds


def _written_first(child: Student, chance: random.Random, happens: Any) -> str:
    first = child.first
    plain = first.split()[0].upper()
    known = nicknames().get(plain, ())
    if happens("nickname", 0.02) and known:
        return chance.choice(known)
    if happens("nickname_unknown", 0.004) and plain in _SPANISH_NICKNAMES:
        return _SPANISH_NICKNAMES[plain]
    if happens("first_typo", 0.012):
        return _typo(chance, first)
    if happens("first_respelt", 0.004):
        return _respell(chance, first)
    if happens("called_by_middle_name", 0.004) and child.middle:
        return child.middle
    if happens("initial", 0.001):
        return first[0]
    if happens("first_cut", 0.004):
        return first[:5]
    if happens("first_joined", 0.02):
        return first.replace(" ", "")
    return f"{first} {child.middle[0]}" if child.middle and happens("middle_initial", 0.03) else first


def _written_last(child: Student, chance: random.Random, happens: Any) -> str:
    last = child.last
    parts = last.replace("-", " ").split()
    if len(parts) > 1 and happens("one_surname", 0.05):
        return chance.choice((parts[0], parts[0], parts[-1]))
    if len(parts) > 1 and happens("surnames_turned", 0.005):
        return " ".join(reversed(parts))
    if len(parts) > 1 and happens("surnames_joined", 0.01):
        return "".join(parts)
    if len(parts) > 1 and happens("surnames_hyphened", 0.05):
        return "-".join(parts)
    if happens("surname_changed", 0.006):
        return _surname(chance, is_hispanic=False)
    if child.earlier and happens("surname_earlier", 0.3):
        return child.earlier
    if happens("last_typo", 0.012):
        return _typo(chance, last)
    return f"{last} {child.suffix}" if child.suffix and chance.random() < 0.5 else last


def _written_date(born: date, chance: random.Random, happens: Any, notation: Any) -> str | None:
    if happens("birth_missing", 0.005):
        return None
    if happens("birth_default", 0.004):
        born = date(1900, 1, 1)
    elif happens("birth_digit", 0.008):
        born = _digit_wrong(chance, born)
    elif happens("birth_swapped", 0.003) and born.day <= 12:
        born = date(born.year, born.day, born.month)
    elif happens("birth_other_year", 0.002):
        born = born + timedelta(days=365 * chance.choice((-2, -1, 1, 2)))
    elif happens("birth_other", 0.002):
        born = date(2008, 1, 1) + timedelta(days=chance.randrange(4700))
    if happens("birth_serial", 0.003):
        return _serial(born)
    written = notation(born)
    return str(int(written)) if written.isdigit() and happens("birth_zero_lost", 0.02) else written


def _written_id(child: Student, chance: random.Random, happens: Any, wrong_ids: _WrongIds) -> str:
    own = child.unique_id
    if happens("id_missing", 0.04):
        return "None"
    if happens("id_of_another", 0.007):
        return wrong_ids.instead_of(child).unique_id
    if happens("id_mistyped", 0.01):
        place = chance.randrange(len(own))
        return own[:place] + chance.choice("0123456789") + own[place + 1 :]
    return own


def _typo(chance: random.Random, name: str) -> str:
    place = chance.randrange(len(name))
    letter = name[place]
    kind = chance.choice(("near", "near", "lost", "double", "turned"))
    if kind == "near":
        return name[:place] + chance.choice(_KEYBOARD.get(letter.lower(), "e")) + name[place + 1 :]
    if kind == "lost" and len(name) > 2:
        return name[:place] + name[place + 1 :]
    if kind == "turned" and place + 1 < len(name):
        return name[:place] + name[place + 1] + letter + name[place + 2 :]
    return name[:place] + letter + name[place:]


def _respell(chance: random.Random, name: str) -> str:
    possible = [(old, new) for old, new in _RESPELT if old in name.lower()]
    if not possible:
        return f"{name}{chance.choice(('h', 'e', 'n'))}"
    return name.lower().replace(*chance.choice(possible), 1).title()


def _digit_wrong(chance: random.Random, born: date) -> date:
    for _ in range(50):
        text = born.strftime("%Y%m%d")
        place = chance.randrange(2, 8)
        try:
            wrong = date.fromisoformat(_iso(text[:place] + chance.choice("0123456789") + text[place + 1 :]))
        except ValueError:
            continue
        if wrong != born:
            return wrong
    return born + timedelta(days=1)


def _iso(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"


def _compact(day: date) -> str:
    return day.strftime("%m%d%Y")


def _slashes(day: date) -> str:
    return f"{day.month}/{day.day}/{day.year}"


def _short_year(day: date) -> str:
    return f"{day.month}/{day.day}/{day.year % 100:02d}" if day.year >= 2000 else _slashes(day)


def _serial(day: date) -> str:
    return str((day - date(1899, 12, 30)).days)
