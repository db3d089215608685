"""Parts in their own words: options with types, bounds and defaults; parts by name or file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Ge

from fedkt import registry
from fedkt.descriptions import REQUIRED, Option, describe, docstring_of, parts_called
from fedkt.errors import ConfigError
from fedkt.objectives import KL, Term
from fedkt.options import Factor
from fedkt.strategies.answers.compose import Compose
from fedkt.strategies.answers.knfu import KnFu


@dataclass(frozen=True)
class Base:
    """A base.

    Parameters
    ----------
    inherited : float
        Said by the base.
    changed : int
        Said by the base, and again.
    """

    inherited: Factor = 0.5
    changed: int = 1


@dataclass(frozen=True)
class Thing(Base):
    """A thing.

    Parameters
    ----------
    changed : int
        Said by the thing.
    term : Term
        A part.
    """

    changed: Annotated[int, Ge(2)] = 3
    term: Term = field(default_factory=KL)
    choice: Literal["a", "b"] = "a"
    text: str = ""
    numbers: tuple[int, ...] = (1, 2)
    several: Mapping[str, Any] | None = None
    part: ClassVar[str] = "objectives"


@dataclass(frozen=True)
class Silent(Base):
    inherited: Factor = 0.1


def test_options_have_types_bounds_defaults_and_meanings() -> None:
    assert describe("objectives", Thing).options == (
        Option("inherited", "a finite number of at least 0", "0.5", "Said by the base."),
        Option("changed", "a whole number of at least 2", "3", "Said by the thing."),
        Option("term", "objective (fedkt list objectives)", "kl", "A part."),
        Option("choice", "one of a, b", "a", ""),
        Option("text", "text", '""', ""),
        Option("numbers", "a sequence, each a whole number", "[1, 2]", ""),
        Option("several", "collections.abc.Mapping[str, typing.Any] | None", "None", ""),
    )


def test_the_docstring_that_a_dataclass_makes_is_none() -> None:
    assert str(Silent.__doc__).startswith("Silent(")
    assert docstring_of(Silent).line == ""
    assert docstring_of(Silent).meanings["inherited"] == "Said by the base."


def test_a_part_may_be_given_by_name() -> None:
    options = {option.name: option for option in describe("strategies", Compose).options}
    assert options["fusion"].allowed == "fusion (fedkt list fusions)"
    assert options["objective"].allowed == "objective (fedkt list objectives)"
    assert options["codec"] == Option(
        "codec",
        "text or None",
        "None",
        "Codecs of the answers on both ways, ``NAME`` or ``NAME+NAME``; by default the run's.",
    )


def test_of_a_function_what_fedkt_gives_is_no_option() -> None:
    def model(input_shape: tuple[int, ...], num_classes: int, width: int = 3) -> None:
        """Return a model."""

    (option,) = describe("models", model).options
    assert option == Option("width", "a whole number", "3", "")


def test_an_option_without_a_default_must_be_given() -> None:
    class Needy:
        def __init__(self, beta, gamma: float = 1.0) -> None:
            """Take them."""

    first, second = describe("strategies", Needy).options
    assert first == Option("beta", "", REQUIRED, "")
    assert second == Option("gamma", "a finite number", "1.0", "")


def test_parts_are_found_by_name_in_all_kinds() -> None:
    assert parts_called("knfu") == [("strategies", KnFu)]
    assert [part for part, _ in parts_called("median")] == ["fusions", "trust-rules"]
    with pytest.raises(ConfigError, match=r"Unknown part 'knfuu'\. Did you mean 'knfu'\?"):
        parts_called("knfuu")


FILE = """
from fedkt import KnowledgeStrategy, Recipe, register

class Mine(KnowledgeStrategy):
    def recipe(self):
        return Recipe()

@register(part="models")
def little(input_shape, num_classes):
    '''Return a little model.'''

def nothing():
    pass
"""


def test_parts_of_a_file_are_found(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE, encoding="utf-8")
    ((part, mine),) = parts_called(f"{file}:Mine")
    said = describe(part, mine)
    assert (part, said.name, said.origin) == ("strategies", "mine", str(file))
    assert (said.text.line, said.options) == ("", ())
    ((part, little),) = parts_called(f"{file}:little")
    assert (part, describe(part, little).text.line) == ("models", "Return a little model.")
    with pytest.raises(ConfigError, match="is no part"):
        parts_called(f"{file}:nothing")
    with pytest.raises(ConfigError, match="Unknown strategy in"):
        parts_called(f"{file}:Other")


@pytest.mark.parametrize("part", registry.PARTS)
def test_every_part_describes_itself(part: str) -> None:
    for name in (name for name in registry.names(part) if "@" not in name):  # of no test's file
        said = describe(part, registry.lookup(part, name))
        assert said.name == registry.plain_name(name)
        assert said.text.line, f"{part} {name}: a line on what it is"
