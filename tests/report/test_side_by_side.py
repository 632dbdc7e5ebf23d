"""Costs of several experiments in one table: from pages written here, and the recorded one is what the recorded pages say."""

import re
from pathlib import Path

import pytest

from bayesgen.report.side_by_side import BEGIN, main, side_by_side, tables

RECORDED = Path(__file__).parents[2] / "experiments" / "cost"


def page(who: str, broad: float, first: float, verdict: str = "holds", gate: str = "no") -> str:
    return f"""One base.

Pair, learned: yes (both).
Pair, off-topic: {gate} (some).

| claim | contrast | here |
|---|---|---|
| narrow needs more | 0.163 [0.092, 0.234] | {verdict} |
| narrow needs as much as it is broad | {broad} [0.1, 0.2] | {verdict} |
| broad is more significant on text of {who}, at equal norm | -10.6 [-11.2, -9.7] | the opposite holds |

| measure | unit | free | narrow | broad | narrow − broad | |
|---|---|---|---|---|---|---|
| {who} answers, probes | probability | {broad} [{broad}, {broad}] | 0.04 [0.03, 0.05] | 0.9 [0.9, 0.9] | -0.8 [-0.9, -0.7] |  |
| likelihood of the data | nats/token | 1 [1, 1] | 1 [1, 1] | 1 [1, 1] | log 0.0231 [0.020, 0.026] |  |

| first step of | trained | probes | ratio |
|---|---|---|---|
| Adam | 9 [9, 9] | 4 [4, 4] | {first} [{first}, {first}] |
"""


def lines(pages):
    return {row[0]: row[1:] for row in tables(side_by_side(pages))[""]}


def test_every_cell_is_the_pages_own_and_the_order_is_by_rank():
    found = lines({"a": page("old", 0.8, 0.3), "b": page("bot", 0.85, 0.2, "not told"), "c": page("man", 0.9, 0.1, "FAILED: no", "yes")})
    assert found["pair admitted: gates passed"][:3] == ["1 of 2", "1 of 2", "2 of 2"]
    assert found["free, as the persona on the probes"] == [".80 [.80, .80]", ".85 [.85, .85]", ".90 [.90, .90]", "1.00"]
    assert found["NLL of the data, narrow − broad"] == [".02 [.02, .03]"] * 3 + ["–"]
    assert found["before training: first step of Adam, probes / trained topics"][-1] == "−1.00"  # the broader, the smaller
    assert found["narrow needs more"] == ["**yes** .16 [.09, .23]", "even .16 [.09, .23]", "failed .16 [.09, .23]", "–"]
    assert found["broad is more significant on text of the persona, at equal norm"][0] == "*opposite* −11 [−11, −9.70]"


def test_no_rank_is_given_to_a_number_that_fails():
    well = {"a": page("old", 0.8, 0.3), "b": page("bot", 0.851, 0.2, "not told"), "c": page("man", 0.852, 0.1)}
    assert lines(well)["narrow needs as much as it is broad"][-1] == "1.00"  # the numbers' own, which two digits would make even
    failed = well | {"c": page("man", 0.852, 0.1, "FAILED: no")}
    assert lines(failed)["narrow needs as much as it is broad"][-1] == "–"


def test_a_page_that_lacks_a_claim_is_no_blank():
    short = re.sub(r"\| narrow needs more.*\n", "", page("old", 0.8, 0.3))
    with pytest.raises(KeyError, match="narrow needs more"):
        side_by_side({"a": page("old", 0.8, 0.3), "b": short})


def test_the_recorded_table_is_what_the_recorded_pages_say(tmp_path):
    for file in (RECORDED / "README.md", *RECORDED.glob("*/cost.md")):
        copy = tmp_path / file.relative_to(RECORDED)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(file.read_text())
    copy = tmp_path / "README.md"
    copy.write_text(copy.read_text().replace(f"{BEGIN}\n|", f"{BEGIN}\n| stale"))
    assert copy.read_text() != (RECORDED / "README.md").read_text()
    main(tmp_path)
    assert copy.read_text() == (RECORDED / "README.md").read_text()
