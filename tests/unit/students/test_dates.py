"""Each notation with its smallest example, and the order of a whole file."""

from datetime import date

import pytest

from runway_pipelines.students.dates import DateOrder, read_birth_dates

TODAY = date(2026, 9, 1)
BORN = date(2008, 1, 31)


def read(*texts: str | None) -> tuple[date | None, ...]:
    return read_birth_dates(texts, TODAY).dates


@pytest.mark.parametrize(
    "text",
    [
        "2008-01-31", "2008/1/31", "1/31/2008", "01-31-2008", "31/1/2008", "31.01.2008", "1/31/08", "20080131",
        "01312008", "1312008", "31012008", "January 31, 2008", "Jan 31 2008", "31-Jan-2008", "31 enero 2008",
        "31 de enero de 2008", "2008-Jan-31", "39478", "39478.0", "2008-01-31T00:00:00", "2008-01-31 00:00:00.000",
        "1/31/2008 12:00 AM", " 2008-01-31 ", "31-JAN-08",
    ],
)  # fmt: skip
def test_a_notation_is_read(text: str) -> None:
    assert read(text) == (BORN,)


@pytest.mark.parametrize("text", ["15OCT2010", "15-Oct-2010", "OCT 15, 2010", "2010-10-15Z", "2010-10-15+00:00"])
def test_a_month_may_end_in_the_letter_of_a_time_and_a_date_in_a_zone(text: str) -> None:
    assert read(text) == (date(2010, 10, 15),)
    assert read("August12, 2010", "15SEPT2010") == (date(2010, 8, 12), date(2010, 9, 15))


@pytest.mark.parametrize(
    "text", [None, "", "unknown", "13/32/2008", "2008", "31 Foo 2008", "123456", "2030-01-01", "0", f"1{' ' * 4000}x"]
)
def test_what_is_no_date_is_missing(text: str | None) -> None:
    assert read(text) == (None,)


def test_a_date_that_cannot_be_read_is_counted() -> None:
    assert read_birth_dates(["32/32/2008", "none", None], TODAY).unreadable == 1


def test_one_date_that_says_it_decides_the_file() -> None:
    assert read("6/1/2007", "13/1/2007") == (date(2007, 1, 6), date(2007, 1, 13))
    assert read("6/1/2007", "1/13/2007") == (date(2007, 6, 1), date(2007, 1, 13))
    assert read("06012007", "13012007") == (date(2007, 1, 6), date(2007, 1, 13))


def test_a_file_that_does_not_say_it_has_the_month_first_and_says_so() -> None:
    dates = read_birth_dates(["6/1/2007"], TODAY)
    assert (dates.dates, dates.order) == ((date(2007, 6, 1),), DateOrder.ASSUMED)
    assert read_birth_dates(["6/1/2007", "6/13/2007"], TODAY).order is DateOrder.MONTH_FIRST
    assert read_birth_dates(["6/1/2007", "13/6/2007"], TODAY).order is DateOrder.DAY_FIRST


def test_dates_that_contradict_the_file_are_read_as_they_can() -> None:
    assert read("1/13/2007", "2/14/2008", "13/1/2007") == (date(2007, 1, 13), date(2008, 2, 14), date(2007, 1, 13))


def test_two_digits_are_the_year_of_a_student_of_3_to_25() -> None:
    assert read("1/31/23", "1/31/01") == (date(2023, 1, 31), date(2001, 1, 31))
    assert read("1/31/24", "1/31/00", "1/31/99") == (None, None, None)


@pytest.mark.parametrize("text", ["1900-01-01", "01011900", "1899-12-30", "1/1/1970", "2000-01-01"])
def test_a_default_date_is_missing(text: str) -> None:
    dates = read_birth_dates([text], TODAY)
    assert (dates.dates, dates.defaults) == ((None,), 1)


def test_one_date_on_more_than_a_tenth_is_a_default() -> None:
    others = [f"2008-01-{day:02d}" for day in range(1, 29)] + [f"2009-01-{day:02d}" for day in range(1, 18)]
    assert len(others) == 45
    assert read_birth_dates(["2010-05-05"] * 5 + others, TODAY).defaults == 0
    assert read_birth_dates(["2010-05-05"] * 6 + others, TODAY).defaults == 6


def test_triplets_in_a_small_file_keep_their_birthday() -> None:
    assert read("2010-05-05", "2010-05-05", "2010-05-05") == (date(2010, 5, 5),) * 3
