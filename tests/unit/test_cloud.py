"""The plan for clouds: its tables and pictures are what the scripts make, prices say where they
come from, and the model keeps to what was measured.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from CLOUD import capacity, costs, network

PRICES = costs.load()
MEASURED = capacity.load()
MODEL = capacity.fit(MEASURED)


@pytest.mark.parametrize("lang", costs.PAGES)
def test_the_tables_of_the_page_are_those_of_the_scripts(lang: str) -> None:
    text = costs.PAGES[lang].read_text()
    wanted = costs.put(text, "costs", costs.table(PRICES, lang))
    wanted = costs.put(wanted, "prices", costs.sources(PRICES, lang))
    wanted = costs.put(wanted, "capacity", capacity.table(MODEL, lang))
    assert text == wanted, "run make cloud-costs"


def test_both_languages_say_the_same_parts() -> None:
    english, portuguese = (costs.PAGES[lang].read_text() for lang in ("en", "pt"))
    for pattern in (r"^##+ ", r"^\| ", r"^\* ", r"^!\["):
        found = [len(re.findall(pattern, text, re.M)) for text in (english, portuguese)]
        assert found[0] == found[1], pattern
    links = [sorted(re.findall(r"\]\(([^)]+)\)", text)) for text in (english, portuguese)]
    assert [x for x in links[0] if "README" not in x] == [x for x in links[1] if "README" not in x]


@pytest.mark.parametrize("name", network.PROVIDERS)
def test_the_pictures_are_those_of_the_script(name: str) -> None:
    assert (network.FOLDER / f"network-{name}.svg").read_text() == network.draw(name)


def test_every_price_has_a_page_and_a_date_or_is_called_assumed() -> None:
    names = [set(provider) for provider in PRICES["provider"].values()]
    assert len(names) == 3
    assert all(each == names[0] for each in names)
    for provider in PRICES["provider"].values():
        for name, price in provider.items():
            if name == "title":
                continue
            assert price["of"]
            assert ("assumed" in price) != ("source" in price), name
            assert ("date" in price) == ("source" in price), name
            if "source" in price:
                assert re.fullmatch(r"https://\S+", price["source"])
                assert price["date"].startswith("2026")
    assert all(each["why"] for each in PRICES["assume"].values())
    assert len(PRICES["size"]) == 3


def test_costs_are_reckoned_as_by_hand() -> None:
    size = costs.Size(
        voters=3, observers=1, vcpu=2, keys=1_000_000_000, value_bytes=100,
        writes_per_s=10, reads_per_s=0,
    )  # fmt: skip
    assume = {name: {"value": each["value"]} for name, each in PRICES["assume"].items()}
    assume |= {
        "row_overhead_bytes": {"value": 100}, "entry_overhead_bytes": {"value": 100},
        "disk_spare": {"value": 2}, "backups_kept": {"value": 3},
    }  # fmt: skip
    need = costs.needed(size, assume)
    assert (need.data_gb, need.disk_gb, need.backup_gb) == (200.0, 400.0, 600.0)
    assert need.zone_gb == pytest.approx(10 * 200 * 3 * 730 * 3600 / 1e9)
    price = {
        name: {"usd": 1.0} for name in PRICES["provider"]["aws"] if name != "title"
    } | {"title": "x", "vcpu_hour": {"usd": 0.5}}  # fmt: skip
    found = costs.cost(need, price, 100)
    assert (found.machines, found.disks, found.around) == (4 * 2 * 0.5 * 100, 1600.0, 200.0)
    assert found.replicated == pytest.approx(400 + 1600 + 200 + need.zone_gb + 600)
    assert (found.shared, found.more) == (3 * 100 + 400, 200)


def test_a_page_without_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places named costs"):
        costs.put("nothing", "costs", "| x |")


# --------------------------------------------------------------------------------------- capacity


def test_the_model_goes_through_what_was_measured() -> None:
    for each in MEASURED["writes"].values():
        assert MODEL.cpu_us(3, each["connections"]) == pytest.approx(each["cpu_us"])
    for what, was, modelled in capacity.errors(MODEL, MEASURED):
        assert modelled == pytest.approx(was, rel=0.02), what


def test_other_figures_give_another_model() -> None:
    other = {**MEASURED, "writes": {
        name: {**each, "cpu_us": each["cpu_us"] * 2} for name, each in MEASURED["writes"].items()
    }}  # fmt: skip
    assert capacity.fit(other).once_us == pytest.approx(2 * MODEL.once_us)


def test_more_members_and_longer_ways_carry_less() -> None:
    for _, _, places in capacity.PLACES.values():
        rates = [capacity.estimate(MODEL, n, places)["per_s"] for n in capacity.MEMBERS]
        assert rates == sorted(rates, reverse=True)
    far = [capacity.estimate(MODEL, 3, places) for _, _, places in capacity.PLACES.values()]
    for name, worst in (("per_s", min), ("leader_ms", max), ("away_ms", max), ("read_ms", max)):
        assert worst(far, key=lambda each: each[name]) == far[-1]
    assert [capacity.estimate(MODEL, n, (0.0,))["lost"] for n in (3, 5, 7)] == [1, 2, 3]


def test_a_majority_is_as_near_as_its_farthest_member() -> None:
    assert capacity.majority_ms([0, 10, 20]) == 10
    assert capacity.majority_ms([0, 10, 20, 0, 10]) == 10
    assert capacity.majority_ms([0, 5, 20, 0, 5, 20, 0]) == 5


def test_the_simulation_is_the_same_for_a_seed_and_never_beats_the_round_trip() -> None:
    rtts = capacity.spread(3, (0.0, 50.0, 50.0))
    rate = capacity.simulate(MODEL, rtts, 64)
    assert rate == capacity.simulate(MODEL, rtts, 64)
    assert 0 < rate < 64 / 0.045
    faster = replace(MODEL, once_us=0, each_us=0, round_us=0)
    assert capacity.simulate(faster, rtts, 64) >= rate
