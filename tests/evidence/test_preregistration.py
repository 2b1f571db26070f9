"""What was fixed before a run, and how a later change shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.evidence.preregistration import PreregistrationError, preregistered

PLAN = """
[one]
study = "exploratory"
seeds = { cpu = 3 }
margins = { a = 0.5 }

[two]
margins = { a = 1.0 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def test_a_target_has_its_own_section_and_hash(file: Path) -> None:
    section, of_one = preregistered(file, "one")
    assert section == {"study": "exploratory", "seeds": {"cpu": 3}, "margins": {"a": 0.5}}
    assert len(of_one) == 12
    assert of_one != preregistered(file, "two")[1]


def test_the_hash_follows_the_content_of_the_section_alone(file: Path) -> None:
    before = preregistered(file, "one")
    file.write_text("# a remark\n[two]\nmargins = { a = 2.0 }\n[one]\n" + PLAN.split("[two]")[0].split("[one]")[1])
    assert preregistered(file, "one") == before
    file.write_text(PLAN.replace("0.5", "0.6"))
    assert preregistered(file, "one")[1] != before[1]


def test_no_section_is_an_empty_one(file: Path) -> None:
    assert preregistered(file, "three")[0] == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[one\n", "plan.toml: not TOML: "),
        ("one = 3\n", "plan.toml: one is not a section"),
        ("[one]\nseeds = 3\n", "plan.toml, section one: study is none of confirmatory, exploratory"),
        ('[one]\nstudy = "pilot"\n', "plan.toml, section one: study is none of confirmatory, exploratory"),
        ("[one]\nwhen = 2024-01-01\n", "plan.toml, section one: a date or a number that is not finite"),
        ("[one]\nmargin = nan\n", "plan.toml, section one: a date or a number that is not finite"),
    ],
)
def test_a_plan_that_cannot_be_used(file: Path, text: str, reason: str) -> None:
    file.write_text(text)
    with pytest.raises(PreregistrationError) as error:
        preregistered(file, "one")
    assert str(error.value).startswith(reason)
    assert "\n" not in str(error.value)
