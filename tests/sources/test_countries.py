"""Countries as people write them, and the lists that SEER's criterion needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from seerctl.errors import InputError, UsageError
from seerctl.sources.countries import LISTS, CountryFilter, _table, country_code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("FR", "FR"), ("fra", "FR"), (" France ", "FR"), ("U.S.A.", "US"), ("usa", "US"), ("united states", "US"),
        ("UK", "GB"), ("EL", "GR"), ("Czech Republic", "CZ"), ("Czechia", "CZ"), ("Côte d’Ivoire", "CI"),
        ("cote d'ivoire", "CI"), ("COTE D IVOIRE", "CI"), ("Österreich", "AT"), ("NA", "NA"), ("Türkiye", "TR"),
        ("Korea, Republic of", "KR"), ("Bosnia & Herzegovina", "BA"), ("Bosnia and Herzegovina", "BA"),
    ],
)  # fmt: skip
def test_names_and_codes(text: str, code: str) -> None:
    assert country_code(text) == code


@pytest.mark.parametrize("value", [None, "", "Atlantis", "XX", 250, 1.5, ["FR"], "unknown"])
def test_what_is_no_country(value: object) -> None:
    assert country_code(value) is None


def test_the_table_is_whole() -> None:
    codes = set(_table().values())
    assert len(codes) == 249
    assert all(country_code(code) == code for code in codes)
    eu, eea = LISTS["@eu"][1], LISTS["@eea"][1]
    assert len(eu - {"AX", "GF", "GP", "MF", "MQ", "RE", "YT"}) == 27
    assert eea - eu == {"IS", "LI", "NO"}
    assert eea <= codes
    assert not {"GB", "CH"} & eea


def test_verdicts() -> None:
    chosen = CountryFilter.load("@eu", "place", keep_unknown=False)
    assert chosen.verdict({"place": "Germany"}) == (True, "DE")
    assert chosen.verdict({"place": "US"}) == (True, "")
    assert chosen.verdict({"place": "Mars"}) == (False, "")
    assert chosen.verdict({"country": "DE"}) == (False, "")
    assert chosen.recorded()["as_of"] == "2020-02-01"


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# not these\nFR\nGermany  # the neighbour\n\n")
    chosen = CountryFilter.load(str(path), "country", keep_unknown=True)
    assert chosen.codes == {"FR", "DE"}
    assert "as_of" not in chosen.recorded()
    path.write_text("FR\nAtlantis\n")
    with pytest.raises(UsageError, match=r"list\.txt:2: no country 'Atlantis'"):
        CountryFilter.load(str(path), "country", keep_unknown=True)
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="names no country"):
        CountryFilter.load(str(path), "country", keep_unknown=True)
    with pytest.raises(UsageError, match=r"no such list\. Did you mean '@eu'"):
        CountryFilter.load("@ue", "country", keep_unknown=True)
    with pytest.raises(InputError, match="no such file"):
        CountryFilter.load(str(tmp_path / "none"), "country", keep_unknown=True)
