"""The synthetic partners and tenants: who exists, and how each one's registration differs.

Belongs here: the registry side of the synthetic data set. What the tenants' warehouses hold is in `dataset.py`.
"""

from dataclasses import dataclass

RESOLVED_PARTNER = "acme"  # whose students are resolved


@dataclass(frozen=True)
class Tenant:
    """One district. `students` counts the distinct usable student_unique_id in the partner's warehouse."""

    code: str
    students: int
    is_global: bool = False
    deleted: bool = False


@dataclass(frozen=True)
class Partner:
    """One partner and its warehouse's connection. `enabled_years`: (school_year, send_to_ods) of each enabled year."""

    partner_id: str
    name: str
    account: str
    user: str
    database: str
    schema: str
    warehouse: str | None
    role: str | None
    tenants: tuple[Tenant, ...]
    has_secret: bool = True
    cross_year_matching_enabled: bool = True
    deleted: bool = False
    enabled_years: tuple[tuple[int, bool], ...] = ()


def synthetic_partners() -> tuple[Partner, ...]:
    """Three healthy partners, then one without a secret, one whose toggle is off and one that is deleted.

    `acme` has three no-ODS years and one that sends to the ODS, a tenant without students and a deleted one;
    `borealis` a global and two deleted tenants; `cascade` no enabled no-ODS year, and a tenant with the code of one
    of acme's.
    """
    acme = {
        "ashford": 5000, "brookdale": 3200, "carver": 2400, "dunmore": 2000, "eastlake": 1600, "fairview": 1300,
        "glenwood": 1000, "harmony": 800, "ivydale": 500, "juniper": 200, "kestrel": 0, "lakeside": 400,
    }  # fmt: skip
    no_ods = ((2026, False),)
    return (
        Partner(
            partner_id="acme",
            name="Acme Assessment Cooperative",
            account="synth-acme",
            user="RUNWAY_ROSTER_ACME",
            database="ACME_EDU",
            schema="PROD_STAGE",
            warehouse="ROSTER_WH",
            role="ROSTER_READER",
            tenants=tuple(Tenant(code, students, deleted=code == "lakeside") for code, students in acme.items()),
            enabled_years=((2023, True), (2024, False), (2025, False), (2026, False)),
        ),
        Partner(
            partner_id="borealis",
            name="Borealis Regional Service Center",
            account="synth-borealis",
            user="runway_roster_borealis",
            database="ANALYTICS",
            schema="STG_EDFI",
            warehouse=None,
            role=None,
            tenants=tuple(
                Tenant(f"district-{i}", 250 + 33 * i, is_global=i == 7, deleted=i in (13, 31)) for i in range(1, 41)
            ),
            enabled_years=no_ods,
        ),
        Partner(
            partner_id="cascade",
            name="Cascade Education Data Trust",
            account="synth-cascade",
            user="RUNWAY_ROSTER_CASCADE",
            database="CASCADE_WAREHOUSE",
            schema="EDU_STAGING",
            warehouse="COMPUTE_XS",
            role=None,
            tenants=(
                Tenant("springfield", 2500),
                Tenant("shelbyville", 1200),
                Tenant("ashford", 900),
                Tenant("ogdenville", 600),
            ),
            enabled_years=((2026, True),),
        ),
        _small("driftwood", "Driftwood Collaborative", has_secret=False),
        _small("eventide", "Eventide Schools Network", cross_year_matching_enabled=False),
        _small("foxglove", "Foxglove Consortium", deleted=True),
    )


def _small(
    partner_id: str,
    name: str,
    *,
    has_secret: bool = True,
    cross_year_matching_enabled: bool = True,
    deleted: bool = False,
) -> Partner:
    return Partner(
        partner_id=partner_id,
        name=name,
        account=f"synth-{partner_id}",
        user=f"RUNWAY_ROSTER_{partner_id.upper()}",
        database=f"{partner_id.upper()}_EDU",
        schema="PROD_STAGE",
        warehouse=None,
        role=None,
        tenants=(Tenant("north", 300), Tenant("south", 250)),
        has_secret=has_secret,
        cross_year_matching_enabled=cross_year_matching_enabled,
        deleted=deleted,
        enabled_years=((2026, False),),
    )
