"""The table of methods: rows that are ours, and rows of a user's own package, as the README shows."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from repro import targets
from repro.adaptive.methods import ENTRY_POINTS, METHODS, OURS, methods, unit_of
from repro.adaptive.table import AdaptiveTable
from repro.datasets import cifar10
from repro.errors import UsageError
from repro.published import table
from repro.targets import Context, planned
from tests.datasets import made_up
from tests.made_up import evidence, record_of

README = Path(__file__).parents[2] / "README.md"
TINY = {
    "width": "8",
    "train_images": "64",
    "test_images": "40",
    "batch": "16",
    "fp32_epochs": "1",
    "epochs": "1",
    "bn_images": "64",
    "alpha_images": "64",
}
PAPERS = list(table("table1").methods)


def test_rows_of_the_paper_come_first_and_rows_without_print_say_whose_they_are() -> None:
    assert list(METHODS)[: len(PAPERS)] == PAPERS
    assert {m.name: m.origin for m in METHODS.values() if m.name not in PAPERS} == dict.fromkeys(
        (
            "joint_bn_calib",
            "bit_mixer_bn_calib",
            "distilled",
            "nearest",
            "selected",
            "highest_swapped",
            "nearest_swapped",
        ),
        OURS,
    )


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4"])
def test_all_methods_train_for_as_many_steps_on_as_many_images(name: str) -> None:
    target = targets.get(name)
    for scale in target.scales:
        units = [unit for unit in planned(target, scale) if "epochs" in unit.settings]
        lengths = {tuple(unit.settings.get(key) for key in ("epochs", "batch", "train_images")) for unit in units}
        assert len(units) > 8
        assert len(lengths) == 1


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_ours_run_where_asked_after_every_printed_row(name: str) -> None:
    target = targets.get(name)
    for scale in target.scales:
        names = [unit.name for unit in planned(target, scale)]
        ours = [unit != "fp32" and unit_of(unit)[0].origin == OURS for unit in names]
        assert any(ours) == (scale in target.ours)
        assert ours == sorted(ours)


def test_the_ablation_differs_from_coquant_in_teacher_and_swapping_alone() -> None:
    from dataclasses import replace

    coquant = METHODS["coquant"].recipe
    expected = {
        "distilled": ("highest", False), "nearest": ("nearest", False), "selected": ("selected", False),
        "highest_swapped": ("highest", True), "nearest_swapped": ("nearest", True),
    }  # fmt: skip
    for name, (teacher, swapped) in expected.items():
        assert METHODS[name].recipe == replace(coquant, teacher=teacher, swapped=swapped)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, str]], None]:
    """Installs a package `my-package` with one module and entry points as its pyproject names them."""

    def install(source: str, points: dict[str, str]) -> None:
        site = tmp_path / "site"
        info = site / "my_package-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "my_methods.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
        lines = [f"{name} = {where}\n" for name, where in points.items()]
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{''.join(lines)}")
        monkeypatch.syspath_prepend(site)

    yield install
    sys.modules.pop("my_methods", None)


def readme_example() -> tuple[str, dict[str, str]]:
    """The module and the entry points that the README shows."""
    section = README.read_text("utf-8").partition("### Your own method\n")[2].partition("\n#")[0]
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, re.MULTILINE)
    source, project = ("\n".join(line[4:] for line in block.splitlines()) for block in blocks)
    return source, tomllib.loads(project)["project"]["entry-points"][ENTRY_POINTS]


def test_a_method_of_ones_own_is_trained_and_shown(
    install: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "load", made_up.cifar10())
    install(*readme_example())
    target = targets.get("table1")
    units = planned(target, "smoke", 1, TINY)
    assert units[-1].name == "taught"
    for unit in (units[0], units[-1]):
        folder = tmp_path / unit.name
        folder.mkdir()
        outcome = target.run(unit, Context(folder, inputs={name: tmp_path / name for name in unit.requires}))
    assert list(outcome.values) == ["8", "6", "4", "2"]
    kept = evidence(target, [record_of(unit, outcome.values, best=outcome.best)], units)
    page = target.summary(kept, kept)
    (line,) = [line for line in page.splitlines() if "Any Precision, teacher the highest (my-package)" in line]
    assert f"{outcome.values['2']:.1f}" in line


def test_a_row_whose_recipe_was_edited_is_another_unit(install: Callable) -> None:
    """What is recorded under its name was trained by another recipe."""
    install(*readme_example())
    unit = planned(targets.get("table1"), "smoke", 1, TINY)[-1]
    assert (unit.settings["recipe_teacher"], unit.settings["recipe_swapped"]) == ("highest", False)
    assert not any(key.startswith("recipe_") for key in planned(targets.get("table1"), "smoke", 1, TINY)[0].settings)


def test_without_a_record_an_installed_method_changes_no_render(install: Callable) -> None:
    target: AdaptiveTable = targets.get("table2")
    before = target.summary(evidence(target), evidence(target))
    install(*readme_example())
    assert "taught" in methods()
    assert target.summary(evidence(target), evidence(target)) == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3", "my-package registers 'mine' under repro.methods: it is no Method"),
        ("Method('mine', '')", "'mine' under repro.methods cannot be loaded: Method.__init__() missing"),
        ("Method('mine', '', Recipe(FLOAT, swapped=True))", "a recipe with swapped=True needs a teacher"),
        ("Method('mine', '', Recipe(FLOAT, random_bits=True, teacher='highest'))", "has no teacher"),
        ("Method('adabits', '', Recipe(FLOAT))", "my-package registers a method 'adabits': there is one of this name"),
        ("Method('fp32', '', Recipe(FLOAT))", "there is one of this name"),
        (
            "Method('mine', '', Recipe('elsewhere', clip='start', batch_norm='start'))",
            "method 'mine' of my-package starts from 'elsewhere': give one of adabits, any_precision, bit_mixer",
        ),
        (
            "Method('mine', '', Recipe('dq8', clip='start', batch_norm='start'))",
            "method 'mine' of my-package starts from 'dq8': give one of",
        ),
        (
            "Method('mine', '', Recipe('distilled', clip='start', batch_norm='start'))",
            "method 'mine' of my-package starts from 'distilled': give one of",
        ),
        ("Method('mine', '', Recipe(FLOAT, clip='sharde'))", "no clip='sharde': did you mean shared?"),
        ("Method('mine', '', Recipe(FLOAT, batch_norm='perbit'))", "no batch_norm='perbit': did you mean per_bit?"),
        ("Method('mine', '', Recipe(FLOAT, teacher='higest'))", "no teacher='higest': did you mean highest?"),
        ("Method('my own!', '', Recipe(FLOAT))", "letters, digits, _ + and - in the name"),
        ("Method('mine', 'a|b', Recipe(FLOAT))", "no | in the label"),
        ("exit('gone')", "cannot be loaded: gone"),
        ("Method('mine', '', Recipe('joint'))", "a recipe from joint keeps its network: give clip='start'"),
        ("Method('mine', '', Recipe(FLOAT, clip='start'))", "a recipe from fp32 has no clip levels to start with"),
        ("Method('mine', '', Recipe(FLOAT, batch_norm='calibrated'))", "cannot be trained: give trained=False"),
        ("Method('mine', '', Recipe(FLOAT, trained=False))", "give clip='percentile'"),
        ("Method('mine', '', Recipe(FLOAT, per_bit=True, teacher='highest'))", "trains each bit-width alone"),
        ("Method('mine', '', Recipe(FLOAT, random_bits=True, trained=False, clip='percentile'))", "has to be trained"),
        (
            "Method('mine', '', Recipe(FLOAT, teacher='highest', hard_target=False, soft_target=False))",
            "learns nothing",
        ),
    ],
)
def test_a_row_that_cannot_be_is_one_line_that_names_its_package(install: Callable, row: str, message: str) -> None:
    install(f"from repro.adaptive.methods import FLOAT, Method, Recipe\nROW = {row}\n", {"mine": "my_methods:ROW"})
    with pytest.raises(UsageError, match=re.escape(message)):
        methods()
