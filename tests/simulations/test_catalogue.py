"""The facts of methods, their tables, and one part in full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fedkt
from fedkt import registry
from fedkt.descriptions import describe
from fedkt.errors import ConfigError
from fedkt.simulations.catalogue.method_facts import (
    UNPUBLISHED,
    MethodFacts,
    about_family,
    asked,
    facts_of,
)
from fedkt.simulations.catalogue.method_tables import (
    HEAD,
    WIDE,
    families_table,
    in_bytes,
    markdown_page,
    terminal_table,
    travels,
)
from fedkt.simulations.catalogue.part_page import shown_part
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.domains.fedka import FedKA

ROOT = Path(fedkt.__file__).parents[1]
PAGE, README = ROOT / "docs" / "methods.md", ROOT / "README.md"
BUILT_IN = [
    name
    for name in registry.names("strategies")
    if registry.lookup("strategies", name).__module__.startswith(f"{registry.METHODS}.")
]


@pytest.fixture(scope="module")
def methods() -> list[MethodFacts]:
    return [facts_of(name) for name in BUILT_IN]


# --- laws of all built-in methods ---------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_says_all_that_is_shown_of_it(name: str) -> None:
    facts = facts_of(name)
    assert facts.problem == "", f"{name} can be made without options"
    assert facts.family, f"{name} stands in a folder of strategies/"
    assert about_family(facts.family), f"the folder {facts.family} says what its methods share"
    assert facts.line, f"{name}: the first line of the class says what it does"
    assert facts.citation, (
        f"{name}: the first line of its module cites a paper, (Author et al., PLACE YEAR), or says "
        f"({') or ('.join(UNPUBLISHED)})"
    )
    assert ": " in facts.bytes, f"{name}: a paragraph says 'Bytes a round and client, ...: ...'"
    assert bool(facts.up) == (facts.bytes.rpartition(": ")[2] != "none."), f"{name}: bytes up"


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_option_of_a_method_is_described(name: str) -> None:
    options = describe("strategies", registry.lookup("strategies", name)).options
    silent = [option.name for option in options if not (option.meaning and option.allowed)]
    assert not silent, f"{name}: type and description of {', '.join(silent)}"


def test_the_page_on_methods_is_fresh(methods: list[MethodFacts]) -> None:
    written = PAGE.read_text(encoding="utf-8")
    fresh = markdown_page(methods) == written
    assert fresh, "docs/methods.md is stale: fedkt list strategies --markdown > docs/methods.md"


def test_the_readme_names_all_families_and_methods(methods: list[MethodFacts]) -> None:
    named = families_table(methods) in README.read_text(encoding="utf-8")
    assert named, "README.md names other methods: its table is the first one of docs/methods.md"


# --- facts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("local", ((), (), "any", "", "")),
        ("fedmd", (("logits",), ("logits",), "any", "clients", "")),
        ("fedpf", (("logits",), ("probabilities",), "any", "clients", "")),
        ("ds-fl", (("probabilities",), ("probabilities",), "any", "both", "model")),
        ("fccl", (("logits",), ("logits",), "networks", "clients", "")),
        ("fedavg", (("weights",), ("weights",), "one", "", "weights")),
        ("fedbn", (("weights",), ("weights",), "one", "", "")),
        ("feddf", (("weights",), ("weights",), "networks", "server", "model")),
        ("fml", (("weights",), ("weights",), "networks", "", "weights")),
        ("fedproto", (("prototypes",), ("prototypes",), "equal features", "", "")),
        ("fedgh", (("prototypes",), ("weights",), "equal features", "", "model")),
        ("fada", (("weights",), ("weights", "features"), "one", "server", "model")),
        ("scaffold", (("weights", "statistics"), ("weights", "statistics"), "one", "", "weights")),
    ],
)
def test_facts_are_those_of_the_method(name: str, facts: tuple[Any, ...]) -> None:
    told = facts_of(name)
    assert (told.up, told.down, told.models, told.public, told.server) == facts


def test_options_change_what_a_method_says() -> None:
    with_student, moments = asked(FedMD(student=True)), asked(FedKA(workspace="gaussian"))
    assert (with_student["public"], with_student["server"]) == ("both", "model")
    assert moments["down"] == ("weights", "statistics")


@pytest.mark.parametrize(
    ("said", "formula"),
    [
        ("Bytes a round and client, M: up 4MC, down 4MC (broadcast).", ("4MC", "4MC")),
        ("Bytes a client, once: up 4P; down 8P, and more.", ("4P", "8P")),
        ("Bytes: up 4(P - B), down 4P (to all) as FedAvg", ("4(P - B)", "4P as FedAvg")),
        ("Bytes: up M' (4C + 8) (of some), down 0; more.", ("M' (4C + 8)", "0")),
        ("Bytes a round: with Q = 2P, up 4Q, down 4Q: more.", ("4Q", "4Q")),
        ("Bytes a round and client: none.", None),
        ("Bytes of no colon", None),
        ("", None),
    ],
)
def test_formulas_are_read_from_the_sentence(said: str, formula: tuple[str, str] | None) -> None:
    assert MethodFacts("m", "", "", "", said).formula == formula


@pytest.mark.parametrize(
    ("said", "cell"),
    [
        ("Bytes a round and client: none.", ("none",)),
        ("Bytes a round and client: those of a tree. It grows.", ("those of a tree",)),
        ("Bytes of no colon; and more", ("Bytes of no colon",)),
        ("Bytes: up 4P, down 4P.", ("4P",)),
        ("Bytes: up 4P, down 8P.", ("4P", "8P")),
        ("", ("?",)),
    ],
)
def test_bytes_in_short(said: str, cell: tuple[str, ...]) -> None:
    assert in_bytes(MethodFacts("m", "", "", "", said)) == cell


@pytest.mark.parametrize(
    ("line", "short"),
    [
        ("COMET (Cho, Wang and Joshi, 2021, arXiv:2109.08119)", "Cho et al., 2021"),
        ("FedMD (Li and Wang, 2019, arXiv:1910.03581)", "Li and Wang, 2019"),
        ("FedBN (Li et al., ICLR 2021, arXiv:2102.07623), as is", "Li et al., ICLR 2021"),
        ("Alone (Solo, NeurIPS 2020)", "Solo, NeurIPS 2020"),
        ("FedPF (ours): parts of 2021", "ours"),
        ("Nothing (see the text)", ""),
        ("", ""),
    ],
)
def test_citations_in_short(line: str, short: str) -> None:
    assert MethodFacts("m", "", "", line, "").short_citation == short


# --- methods of one's own -----------------------------------------------------------------------

MINE = '''"""My method (Me, Workshop 2024)."""
from fedkt import Fused, KnowledgeStrategy, Predict, Recipe, Train
from fedkt.objectives import CrossEntropy, Distil

class Mine(KnowledgeStrategy):
    """Do as I do.

    Bytes a round and client, M samples: up 4MC, down 4MC (broadcast).

    Parameters
    ----------
    beta : float
        How much.
    """

    def __init__(self, beta: float = 2.0):
        self.beta = beta

    def recipe(self):
        return Recipe(
            learn=[Train("private", [CrossEntropy()])],
            share=[Predict(name="mine")],
            absorb=[Train("public", [Distil(source="mine")])],
        )

    def fuse(self, uploads):
        return Fused()

class Needy(Mine):
    def __init__(self, beta):
        self.beta = beta

class Broken(Mine):
    """Break."""

    def recipe(self):
        raise RuntimeError("no recipe\\ntoday")

class Half(KnowledgeStrategy):
    """Do half."""
'''


@pytest.fixture
def mine(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    return str(file)


def test_a_method_in_a_file_is_shown(mine: str) -> None:
    text = shown_part(f"{mine}:Mine", 80)
    assert text.startswith("mine (strategy)\nDo as I do.\n")
    rows = dict(line.split("  ", 1) for line in text.splitlines() if "  " in line.strip())
    told = {name: said.strip() for name, said in rows.items() if name}
    assert told["Paper"] == "My method (Me, Workshop 2024)"
    assert told["Travels"] == "up probabilities; down probabilities"
    assert told["Public set"] == "at the clients"
    assert told["Bytes"] == "a round and client, M samples: up 4MC, down 4MC (broadcast)."
    assert text.endswith("  beta = 2.0 (a finite number)\n    How much.")
    assert "Family" not in told


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Needy", "missing a required argument: 'beta'"),
        ("Broken", "RuntimeError: no recipe today"),
        ("Half", "it does not define recipe"),
    ],
)
def test_what_cannot_be_asked_is_said(mine: str, name: str, why: str) -> None:
    facts = facts_of(f"{mine}:{name}")
    assert why in facts.problem
    assert travels(facts) == ("?",)
    text = " ".join(shown_part(f"{mine}:{name}", 200).split())  # which wraps at a long path
    assert "Not known" in text
    assert why in text


def test_a_file_without_docstrings_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "bare.py"
    file.write_text(
        "from fedkt import KnowledgeStrategy, Recipe\n"
        "class Bare(KnowledgeStrategy):\n"
        "    def recipe(self):\n"
        "        return Recipe()\n",
        encoding="utf-8",
    )
    facts = facts_of(f"{file}:Bare")
    assert (facts.line, facts.paper, facts.bytes, facts.problem) == ("", "", "", "")
    assert travels(facts) == ("nothing",)
    assert shown_part(f"{file}:Bare", 80).startswith("bare (strategy)\n")


@pytest.mark.usefixtures("own_registry")
def test_a_method_of_another_package_is_listed(
    mine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    metadata = "Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    entries = "[fedkt.strategies]\nplugged = mine:Mine\n"
    (info / "entry_points.txt").write_text(entries, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("mine", None)
    assert "plugged" in registry.names("strategies")
    facts = facts_of("plugged")
    assert (facts.name, facts.family, facts.up) == ("plugged", "", ("probabilities",))
    table = terminal_table([facts_of("fedavg"), facts], 80)
    assert table.index("weights: ") < table.index("others: ") < table.index("plugged")
    assert shown_part("plugged", 80).startswith("plugged (strategy)")


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the registry that has not looked for entry points yet."""
    known = {part: dict(of) for part, of in registry._known.items()}
    monkeypatch.setattr(registry, "_known", known)
    monkeypatch.setattr(registry, "_discovered", set())


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, WIDE, 120, 140])
@pytest.mark.parametrize("long", [False, True])
def test_the_table_fits_and_is_whole(methods: list[MethodFacts], width: int, long: bool) -> None:
    table = terminal_table(methods, width, long)
    lines = table.splitlines()
    room = max(width, 76)  # below that the columns have no room
    assert max(map(len, lines)) <= room
    flat = " ".join(table.split())
    first = [line.split()[0] for line in lines if line[:1].strip()]
    for facts in methods:
        assert facts.name in first
        assert (facts.paper if long else facts.short_citation) in flat or width >= WIDE
        assert facts.line.replace("``", "") in flat or not long
    assert lines.count(next(line for line in lines if line.startswith(HEAD[0]))) == len(
        {facts.family for facts in methods}
    )


def test_what_goes_down_begins_a_line_where_both_have_no_room() -> None:
    said = "Bytes: up 4MC + C(4d + 16), down M'(4C + 8) + C(4d + 16)."
    facts = MethodFacts("m", "", "", "", said, ("logits",), ("weights",), "one")
    rows = terminal_table([facts], 80).splitlines()[2:5]
    assert [row[28:53].strip() for row in rows] == [
        "4MC + C(4d + 16) /",
        "M'(4C + 8) + C(4d + 16)",
        "",
    ]


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    facts = MethodFacts("m", "", "Measure |a| and ``b``.", "", "Bytes a round: |P|.")
    assert r"| \|P\| |" in markdown_page([facts])
    assert r"| Measure \|a\| and `b`. |" in markdown_page([facts])


# --- the commands -------------------------------------------------------------------------------


def test_list_and_show_on_the_command_line(fedkt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    answer = fedkt("list", "strategies")
    assert (answer.code, answer.err) == (0, "")
    assert "Seyedmohammadi et al., 2024" in answer.out
    assert fedkt("list").out == answer.out
    longer = fedkt("list", "strategies", "--long")
    assert "Average the clients' weights by their number of examples." in longer.out
    shown = fedkt("show", "median")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("median (fusion)\n")
    assert "\nmedian (trust rule)\n" in shown.out


def test_the_page_is_what_the_command_writes(methods: list[MethodFacts]) -> None:
    """In a process of its own: other tests register methods in this one."""
    command = [sys.executable, "-m", "fedkt.simulations.cli", "list", "strategies", "--markdown"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == markdown_page(methods)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "codecs", "--long"], "--long and --markdown are for fedkt list strategies."),
        (["list", "strategy"], "Unknown kind of part 'strategy'. Did you mean 'strategies'?"),
        (["show", "knfuu"], "Unknown part 'knfuu'. Did you mean 'knfu'?"),
        (["show", "no.py:Mine"], "No such file: no.py."),
        (["show"], "Missing argument 'NAME'."),
    ],
)
def test_mistakes_are_one_line(fedkt: Any, arguments: list[str], says: str) -> None:
    answer = fedkt(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {says}")
    assert answer.err.count("\n") == 1


def test_a_part_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="Unknown part 'x'"):
        shown_part("x", 80)


def test_paragraphs_lists_and_code_are_shown_as_they_are_written() -> None:
    text = shown_part("fada", 80)
    assert "\n1. The server sends" in text
    assert "\n3. The server averages" in text
    assert "\n    compose(objective=mse, form=logits" in shown_part("compose", 80)
    assert text.count("up 4P', down") == 1, "bytes are among the facts, and not said again"
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_is_shown_within_the_terminal(name: str) -> None:
    lines = shown_part(name, 80).splitlines()
    code = [line for line in lines if line.startswith("    compose(")]
    assert [line for line in lines if len(line) > 80 and line not in code] == []
    assert lines[0] == f"{name} (strategy)"
