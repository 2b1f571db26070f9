"""The named settings of Tables 1-4 and what the README says of them."""

from pathlib import Path

from repro.adaptive.settings import SETTINGS

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_names_every_constant_that_is_our_choice() -> None:
    section = README.read_text("utf-8").partition("## What the papers do not say")[2].partition("\n## ")[0]
    chosen = [setting.name for setting in SETTINGS.values() if setting.alternatives]
    assert "lambda_end" in chosen
    assert [name for name in chosen if f"`{name}`" not in section] == []
