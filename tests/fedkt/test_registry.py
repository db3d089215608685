from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from fedkt import registry
from fedkt.errors import ConfigError, FedktError
from fedkt.knowledge import Knowledge
from fedkt.listing import described
from fedkt.models.dense import mlp
from fedkt.objectives import KL, CrossEntropy
from fedkt.recipe import Recipe, Share, Train
from fedkt.strategies import KnowledgeStrategy
from fedkt.strategies.answers.knfu import KnFu
from fedkt.upload_check import Expected

STRATEGY = """
from fedkt.recipe import Recipe
from fedkt.registry import register
from fedkt.strategies import KnowledgeStrategy

@register
class MyOwn(KnowledgeStrategy):
    def recipe(self):
        return Recipe()
"""


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the registry that has not looked for entry points yet."""
    for part in registry.PARTS:
        registry.names(part)
    known = {part: dict(of) for part, of in registry._known.items()}
    monkeypatch.setattr(registry, "_known", known)
    monkeypatch.setattr(registry, "_discovered", set())


def install(folder: Path, entries: str, module: str) -> None:
    """Lay out a distribution as an installer would."""
    sys.modules.pop("fedkt_test_plugin", None)
    info = folder / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(entries, encoding="utf-8")
    (folder / "fedkt_test_plugin.py").write_text(module, encoding="utf-8")


# --- names ---------------------------------------------------------------------------------


def test_built_in_parts_are_found_by_name() -> None:
    assert registry.lookup("strategies", "knfu") is KnFu
    assert registry.lookup("models", "mlp") is mlp
    assert registry.lookup("objectives", "kl") is KL


@pytest.mark.parametrize(
    ("part", "some"),
    [
        ("strategies", {"fedavg", "fedmd", "fedprox", "knfu", "local"}),
        ("objectives", {"cross-entropy", "distil", "kl", "mae", "mse", "proximal"}),
        ("fusions", {"mean", "mean-by-examples", "personalised-mean"}),
        ("codecs", {"float16"}),
        ("models", {"cnn", "cnn-wide", "linear", "mlp", "resnet8-bn"}),
    ],
)
def test_names_are_sorted_and_complete(part: str, some: set[str]) -> None:
    names = registry.names(part)
    assert names == sorted(names)
    assert some <= set(names)


def test_every_part_has_at_least_one_member() -> None:
    assert [part for part in registry.PARTS if not registry.names(part)] == []


def test_an_unknown_name_brings_the_nearest_one() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.lookup("strategies", "knufu")
    message = str(caught.value)
    assert "Unknown strategy 'knufu'. Did you mean 'knfu'?" in message
    assert "fedavg, " in message
    assert "\n" not in message


def test_far_from_every_name_there_is_no_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.lookup("datasets", "zzzzzzzz")
    assert "Did you mean" not in str(caught.value)
    assert "Unknown data set 'zzzzzzzz'" in str(caught.value)


def test_config_errors_are_value_errors_of_fedkt() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, FedktError)


@pytest.mark.usefixtures("own_registry")
def test_registering_a_function_and_a_class() -> None:
    @registry.register(part="fusions")
    def upside_down(stack: object) -> object:
        return stack

    class Named:
        part = "codecs"
        name = "my-codec"

    assert registry.register(Named) is Named
    assert registry.lookup("fusions", "upside-down") is upside_down
    assert registry.lookup("codecs", "my-codec") is Named
    assert registry.register(part="fusions", name="other")(upside_down) is upside_down
    assert registry.lookup("fusions", "other") is upside_down


@pytest.mark.usefixtures("own_registry")
def test_a_subclass_does_not_inherit_its_parents_name() -> None:
    class Sharper(KnFu):
        pass

    registry.register(Sharper)
    assert registry.lookup("strategies", "sharper") is Sharper
    assert registry.lookup("strategies", "knfu") is KnFu


@pytest.mark.usefixtures("own_registry")
def test_two_shares_that_are_called_alike_are_two_parts() -> None:
    @dataclass(frozen=True)
    class Means(Share):
        name: str = "statistics"
        kind = "statistics"

        def make(self, model: Any, work: Any) -> Knowledge:
            return Knowledge("statistics", {"mean": torch.zeros(1)})

        def expected(self, asked: Any) -> Expected:
            return Expected("statistics", None, {"mean": (1,)})

    class Sums(Means):
        pass

    for share in (Means, Sums):
        registry.register(share)
        recipe = Recipe(share=[share()])
        assert type(Recipe.from_json(recipe.to_json()).share[0]) is share


def test_a_share_says_all_that_is_asked_of_it() -> None:
    class Silent(Share):
        kind = "statistics"

    with pytest.raises(TypeError, match="abstract methods expected, make"):
        Silent()


@pytest.mark.parametrize("part", [None, "nonsense"])
def test_a_part_must_say_what_it_is(part: str | None) -> None:
    with pytest.raises(ConfigError, match="part must be one of strategies, objectives"):
        registry.register(part=part)(lambda: None)


# --- one name, one part ----------------------------------------------------------------------


@dataclass(frozen=True)
class Lookalike:
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "cross-entropy"

    def needs(self) -> tuple[str, ...]:
        return ()


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("part", "name"), [(p, registry.names(p)[0]) for p in sorted(registry.PARTS)]
)
def test_no_part_takes_the_name_of_another_module_s(part: str, name: str) -> None:
    before = registry.lookup(part, name)
    with pytest.raises(ConfigError, match=rf"there is a .* called {name!r} in .*replace=True"):
        registry.register(part=part, name=name)(Lookalike)
    assert registry.lookup(part, name) is before
    registry.register(part=part, name=name, replace=True)(Lookalike)
    assert registry.lookup(part, name) is Lookalike


@pytest.mark.usefixtures("own_registry")
def test_the_same_module_replaces_as_a_notebook_does() -> None:
    for _ in range(2):

        @registry.register(part="codecs", name="again")
        class Again: ...

        assert registry.lookup("codecs", "again") is Again
    registry.register(part="codecs", name="again")(Again)


@pytest.mark.usefixtures("own_registry")
def test_an_entry_point_does_not_replace_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "[fedkt.strategies]\nknfu = fedkt_test_plugin:MyOwn\n", STRATEGY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"Entry point 'knfu'.*called 'knfu' in fedkt"):
        registry.names("strategies")


TERM = """
from dataclasses import dataclass
from typing import ClassVar
from fedkt.registry import register

@register
@dataclass(frozen=True)
class Mine:
    factor: float = {factor}
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "cross-entropy"

    def needs(self):
        return ()

    def __call__(self, outputs, batch, knowledge):
        return self.factor * outputs.logits.sum()

class Forgotten(Mine): ...
"""


@pytest.mark.usefixtures("own_registry")
def test_a_file_s_parts_are_its_own(tmp_path: Path) -> None:
    built_in, recipes = registry.lookup("objectives", "cross-entropy"), []
    for folder, factor in (("a", 0.0), ("b", 2.0), ("c", 2.0)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "terms.py"
        file.write_text(TERM.format(factor=factor), encoding="utf-8")
        term = registry.lookup("objectives", f"{file}:Mine")
        assert registry.lookup("objectives", "cross-entropy") is built_in
        recipes.append(Recipe(learn=[Train("private", [term(), CrossEntropy()])]))
        forgotten = registry.lookup("objectives", f"{file}:Forgotten")
        recipe = Recipe(learn=[Train("private", [forgotten()])])
        with pytest.raises(ConfigError, match="Forgotten is not registered"):
            recipe.to_json()
    for recipe, factor in zip(recipes, (0.0, 2.0, 2.0), strict=True):
        ours, theirs = Recipe.from_json(recipe.to_json()).learn[0].terms
        assert (ours.factor, type(ours).__name__) == (factor, "Mine")
        assert theirs == CrossEntropy()


@pytest.mark.usefixtures("own_registry")
def test_a_file_s_part_by_its_short_name(tmp_path: Path) -> None:
    for stem in ("one", "two"):
        file = tmp_path / f"{stem}.py"
        file.write_text(STRATEGY, encoding="utf-8")
        found = registry.lookup("strategies", f"{file}:MyOwn")
        if stem == "one":
            assert registry.lookup("strategies", "my-own") is found
    with pytest.raises(ConfigError, match=r"which of one@\w+:my-own, two@\w+:my-own"):
        registry.lookup("strategies", "my-own")


def test_an_unregistered_term_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"'cross-entropy' is .*Write @register"):
        Recipe(learn=[Train("private", [Lookalike()])]).to_json()


# --- files ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_registry")
def test_a_class_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(STRATEGY, encoding="utf-8")
    found = registry.lookup("strategies", f"{file}:MyOwn")
    assert issubclass(found, KnowledgeStrategy)
    assert found.__name__ == "MyOwn"
    assert registry.lookup("strategies", f"{file}:MyOwn") is found
    assert registry.lookup("strategies", "my-own") is found


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"value = {value}", encoding="utf-8")
    assert registry.load_file(tmp_path / "a" / "same.py").value == 1
    assert registry.load_file(tmp_path / "b" / "same.py").value == 2


def test_a_file_is_executed_once(tmp_path: Path) -> None:
    file = tmp_path / "once.py"
    log = tmp_path / "log"
    file.write_text(f"open({str(log)!r}, 'a').write('x')\nclass C: pass\n", encoding="utf-8")
    first = registry.lookup("models", f"{file}:C")
    assert registry.lookup("models", f"{tmp_path}/./once.py:C") is first
    assert log.read_text(encoding="utf-8") == "x"


def test_dataclasses_in_a_file_work(tmp_path: Path) -> None:
    file = tmp_path / "data.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass D:\n    x: int = 3\n",
        encoding="utf-8",
    )
    assert registry.lookup("objectives", f"{file}:D")().x == 3


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file: .*absent\.py"):
        registry.lookup("strategies", f"{tmp_path}/absent.py:X")


def test_no_such_attribute_brings_the_nearest_one(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("class Averaging: pass\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Unknown strategy in .*own.py 'Averagin'.*'Averaging'"):
        registry.lookup("strategies", f"{file}:Averagin")


@pytest.mark.parametrize("reference", ["file.py", "file.py:"])
def test_a_file_alone_names_nothing(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"write path/to/file.py:Class"):
        registry.lookup("strategies", reference)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def broken(:\n", "cannot be imported: SyntaxError"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError: No module named"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_broken_files_say_so_each_time(tmp_path: Path, source: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(source, encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ConfigError, match=message):
            registry.lookup("strategies", f"{file}:X")
    file.write_text("class X: pass\n", encoding="utf-8")
    assert registry.lookup("strategies", f"{file}:X").__name__ == "X"


# --- listing without imports -----------------------------------------------------------------


@pytest.mark.parametrize("part", registry.PARTS)
def test_the_source_says_of_a_part_what_the_registry_does(part: str) -> None:
    built_in = {
        name: known
        for name in registry.names(part)
        if (known := registry.lookup(part, name)).__module__.startswith("fedkt.")
    }
    said = {
        name: (inspect.getdoc(known) or "").partition("\n")[0] for name, known in built_in.items()
    }
    assert described(part, registry.PARTS[part][1:]) == said


@pytest.mark.usefixtures("own_registry")
def test_a_part_that_is_loaded_is_listed_as_it_is() -> None:
    @registry.register(part="codecs")
    def upside_down() -> None:
        """Turn everything upside down."""

    assert registry.summaries("codecs")["upside-down"] == "Turn everything upside down."
    assert list(registry.summaries("codecs")) == registry.names("codecs")


# --- entry points --------------------------------------------------------------------------


@pytest.mark.usefixtures("own_registry")
def test_entry_points_add_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        "[fedkt.strategies]\nfrom-plugin = fedkt_test_plugin:MyOwn\n"
        "[fedkt.models]\nplugged = fedkt_test_plugin:model\n",
        STRATEGY + "\ndef model(input_shape, num_classes):\n    return 42\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "from-plugin" in registry.names("strategies")
    assert registry.lookup("strategies", "from-plugin").__name__ == "MyOwn"
    assert registry.lookup("models", "plugged")((1,), 2) == 42
    assert "from-plugin" in registry.summaries("strategies")
    assert registry.lookup("strategies", "knfu") is KnFu


@pytest.mark.usefixtures("own_registry")
def test_a_broken_entry_point_is_named_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "[fedkt.codecs]\nbad-one = fedkt_test_plugin:absent\n", "")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"Entry point 'bad-one' of group fedkt\.codecs"):
            registry.names("codecs")
