"""The reference itself, against bytes that are written out by hand."""

from typing import Any

from tests.reference_roster import ReferenceRoster, reference_lines, reference_roster


def association(key: str, student: str | None, **changes: Any) -> dict[str, Any]:
    row = {"tenant_code": "t", "api_year": 2026, "k_student": f"{key}-2026", "k_student_xyear": key}
    return {**row, "student_unique_id": student, "ed_org_id": 370001, "ed_org_type": "LocalEducationAgency", **changes}


def code(key: str, system: str | None, value: str | None, **changes: Any) -> dict[str, Any]:
    row = {
        "tenant_code": "t",
        "api_year": 2026,
        "k_student": f"{key}-2026",
        "k_student_xyear": key,
        "ed_org_id": 370001,
    }
    return {**row, "id_system": system, "assigning_org": None, "id_code": value, **changes}


def roster(associations: list[dict[str, Any]], codes: list[dict[str, Any]]) -> list[str]:
    return [line.decode() for line in reference_lines("t", associations, codes)]


def start(student: str, ed_org_id: int = 370001, rel: str = "LocalEducationAgency") -> str:
    return (
        f'{{"educationOrganizationReference":{{"educationOrganizationId":{ed_org_id},"link":{{"rel":"{rel}"}}}},'
        f'"studentReference":{{"studentUniqueId":"{student}"}},"studentIdentificationCodes":'
    )


def test_the_example_of_the_contract_to_the_byte() -> None:
    lines = reference_lines("t", [association("a", "0604921")], [code("a", "Local", "0012")])
    assert lines == [
        b'{"educationOrganizationReference":{"educationOrganizationId":370001,"link":{"rel":"LocalEducationAgency"}},'
        b'"studentReference":{"studentUniqueId":"0604921"},'
        b'"studentIdentificationCodes":[{"studentIdentificationSystemDescriptor":"Local","identificationCode":"0012"}]}\n'
    ]


def test_no_codes_and_only_unusable_codes_give_an_empty_array() -> None:
    codes = [code("b", "Local", None), code("b", "Local", ""), code("b", None, "1"), code("b", "", "1")]
    assert roster([association("a", "1"), association("b", "2")], codes) == [start("1") + "[]}\n", start("2") + "[]}\n"]


def test_special_characters_are_utf8_and_only_what_json_demands_is_escaped() -> None:
    lines = reference_lines("t", [association("a", " O'\"\\é😀 ")], [])
    assert lines == [
        b'{"educationOrganizationReference":{"educationOrganizationId":370001,"link":{"rel":"LocalEducationAgency"}},'
        b'"studentReference":{"studentUniqueId":" O\'\\"\\\\\xc3\xa9\xf0\x9f\x98\x80 "},'
        b'"studentIdentificationCodes":[]}\n'
    ]


def test_each_further_code_of_a_system_is_a_line_that_begins_with_it() -> None:
    codes = [code("a", "State", "s1"), code("a", "Local", "2"), code("a", "Local", "1"), code("a", "Local", "10")]
    codes += [code("a", "State", "s0"), code("a", "District", "d"), code("a", "Local", "2", ed_org_id=9)]

    def entries(*pairs: tuple[str, str]) -> str:
        return ",".join(
            f'{{"studentIdentificationSystemDescriptor":"{system}","identificationCode":"{value}"}}'
            for system, value in pairs
        )

    d, s0, s1, l1, l10, l2 = (
        ("District", "d"), ("State", "s0"), ("State", "s1"), ("Local", "1"), ("Local", "10"), ("Local", "2"),
    )  # fmt: skip
    assert roster([association("a", "1")], codes) == [
        start("1") + f"[{entries(d, l1, s0)}]}}\n",
        start("1") + f"[{entries(l10, d, s0)}]}}\n",
        start("1") + f"[{entries(l2, d, s0)}]}}\n",
        start("1") + f"[{entries(s1, d, l1)}]}}\n",
    ]


def test_only_the_latest_year_counts_for_associations_and_codes() -> None:
    associations = [
        association("a", "1", api_year=2024, ed_org_id=1),
        association("a", "1", api_year=2025, ed_org_id=2),
    ]
    codes = [code("a", "Local", str(year), api_year=year) for year in (2024, 2025, 2026)]
    entry = '{"studentIdentificationSystemDescriptor":"Local","identificationCode":"2025"}'
    assert roster(associations, codes) == [start("1", 2) + f"[{entry}]}}\n"]


def test_a_shared_code_is_dropped_for_all_and_counted_once() -> None:
    associations = [association("a", "1"), association("b", "2"), association("c", "3")]
    codes = [code(key, "Local", "12") for key in "abc"] + [code("a", "State", "12"), code("b", "Local", "012")]
    result = reference_roster("t", associations, codes, fillers=False)
    assert result == ReferenceRoster(
        [
            (start("1") + '[{"studentIdentificationSystemDescriptor":"State","identificationCode":"12"}]}\n').encode(),
            (start("2") + '[{"studentIdentificationSystemDescriptor":"Local","identificationCode":"012"}]}\n').encode(),
            (start("3") + "[]}\n").encode(),
        ],
        records=3,
        students=3,
        colliding_codes=1,
    )


def test_who_lacks_a_code_of_a_type_that_somebody_has_gets_a_filler() -> None:
    associations = [association("a", "1"), association("b", "2"), association("b", "2", ed_org_id=9)]
    codes = [
        code("a", "Local", "12"),
        code("a", "uri://x#State", "7"),
        code("b", "State", "N/A"),
        code("a", "TSDS", "0"),
    ]
    codes += [code(key, "District", "5") for key in "ab"]
    local = '{"studentIdentificationSystemDescriptor":"Local","identificationCode":'
    state = '{"studentIdentificationSystemDescriptor":"uri://x#State","identificationCode":'
    result = reference_roster("t", associations, codes)
    assert [line.decode() for line in result.lines] == [
        start("1") + f'[{local}"12"}},{state}"7"}}]}}\n',
        start("2", 9) + f'[{local}"no-code:2"}},{state}"no-code:2"}}]}}\n',
        start("2") + f'[{local}"no-code:2"}},{state}"no-code:2"}}]}}\n',
    ]
    assert (result.colliding_codes, result.placeholder_codes) == (1, 2)


def test_spellings_that_differ_in_case_are_one_student_who_keeps_them() -> None:
    associations = [association("k", "Kc9"), association("k", "kC9", ed_org_id=9), association("l", "1")]
    result = reference_roster("t", associations, [code("k", "Local", "7"), code("l", "Local", "8")])
    entry = '[{"studentIdentificationSystemDescriptor":"Local","identificationCode":"7"}]}\n'
    assert result.students == 2
    assert [line.decode() for line in result.lines][1:] == [start("Kc9") + entry, start("kC9", 9) + entry]


def test_codes_are_compared_as_consumers_compare_them() -> None:
    associations = [association("a", "1"), association("b", "2")]
    codes = [code("a", "Local", "77"), code("b", "uri://x.org/S#Local", "77.0"), code("a", "Local", "5")]
    result = reference_roster("t", associations, codes)
    assert result.colliding_codes == 1
    assert b'"77' not in b"".join(result.lines)


def test_a_year_that_cannot_be_decides_nothing() -> None:
    associations = [association("a", "1"), association("a", "1", api_year=2062, ed_org_id=9)]
    result = reference_roster("t", associations, [code("a", "Local", "7"), code("a", "Local", "8", api_year=2062)])
    assert (len(result.lines), result.implausible_rows) == (1, 1)
    assert b'"7"' in result.lines[0]


def test_an_old_code_that_somebody_else_has_now_is_not_shared() -> None:
    associations = [association("a", "1"), association("a", "1", api_year=2025), association("b", "2")]
    result = reference_roster("t", associations, [code("a", "Local", "12", api_year=2025), code("b", "Local", "12")])
    assert result.colliding_codes == 0
    assert b'"12"' in result.lines[1]


def test_two_keys_of_one_student_are_united_each_in_its_own_latest_year() -> None:
    associations = [association("a", "1"), association("b", "1", api_year=2024, ed_org_id=2, ed_org_type="School")]
    codes = [code("a", "Local", "9"), code("b", "State", "9", api_year=2024), code("b", "Local", "9", api_year=2024)]
    both = (
        '[{"studentIdentificationSystemDescriptor":"Local","identificationCode":"9"},'
        '{"studentIdentificationSystemDescriptor":"State","identificationCode":"9"}]}\n'
    )
    assert roster(associations, codes) == [start("1", 2, "School") + both, start("1") + both]
    assert reference_roster("t", associations, codes).students == 1


def test_rel_is_the_smallest_type_that_is_there_else_the_default() -> None:
    associations = [association("a", "1", ed_org_type=None), association("a", "1", ed_org_type="School")]
    associations += [association("b", "2", ed_org_type=""), association("b", "2", ed_org_type=None)]
    associations += [association("c", "3", ed_org_type="School"), association("c", "3")]
    assert roster(associations, []) == [
        start("1", rel="School") + "[]}\n",
        start("2", rel="LocalEducationAgency") + "[]}\n",
        start("3", rel="LocalEducationAgency") + "[]}\n",
    ]


def test_order_is_by_the_bytes_of_the_student_then_the_number_of_the_ed_org() -> None:
    students = ["😀", "\uff5a", "é", "a", "B", "10", "9", " 1"]
    associations = [association(str(i), student) for i, student in enumerate(students)]
    associations += [association("5", "10", ed_org_id=9), association("5", "10", ed_org_id=1000)]
    expected = [(" 1", 370001), ("10", 9), ("10", 1000), ("10", 370001)]
    expected += [(student, 370001) for student in ("9", "B", "a", "é", "\uff5a", "😀")]
    assert roster(associations, []) == [start(student, org) + "[]}\n" for student, org in expected]


def test_rows_of_nobody_of_nowhere_and_of_other_tenants_are_left_out() -> None:
    associations = [association("a", None), association("b", ""), association("c", "1", ed_org_id=None)]
    associations += [association("d", "2", tenant_code="T"), association("e", "3", ed_org_id=0)]
    codes = [code("e", "Local", "1", tenant_code="T"), code("a", "Local", "7"), code("e", "Local", "7")]
    entry = '{"studentIdentificationSystemDescriptor":"Local","identificationCode":"7"}'
    assert roster(associations, codes) == [start("3", 0) + f"[{entry}]}}\n"]


def test_a_row_that_is_left_out_does_not_decide_the_latest_year() -> None:
    associations = [association("a", "1", api_year=2025), association("a", "1", ed_org_id=None)]
    assert roster(associations, [code("a", "Local", "1", api_year=2026)]) == [start("1") + "[]}\n"]
