"""Who may import whom: the rules of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
import graphlib
import json
import operator
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("fedkt", "strategies", "clients", "simulations")
FILES = [
    f
    for floor in FLOORS
    for f in sorted((ROOT / floor).rglob("*.py"))
    if "templates" not in f.parts  # files written into a user's project
]
FACE = ROOT / "fedkt" / "__init__.py"
PUBLIC_FLOWER = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
    "flwr.simulation",
}
# Outside the shim, and no more than these: the logger that Flower's own guides use, and the
# types that stand in the signatures of the public Grid.
TOLERATED_FLOWER = {
    ("strategies/server/strategy.py", "flwr.common.logger"),
    ("clients/app.py", "flwr.common.logger"),
    ("simulations/engines/grid.py", "flwr.supercore.run"),
    ("simulations/attacks/liars.py", "flwr.supercore.run"),
    ("simulations/engines/ray_grid.py", "flwr.app.metadata"),
}


@cache
def imports(file: Path) -> tuple[str, ...]:
    """Return the full name of every module that a file imports, at any depth."""
    return tuple(imports_of(ast.parse(file.read_text(encoding="utf-8")), file))


def imports_of(tree: ast.Module, file: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively; write the whole name"
            assert node.module is not None
            yield node.module
            # `from fedkt import strategies` names a module by its attribute
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def offences(floor: str, *forbidden: str) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}: {name}"
        for file in FILES
        if file.relative_to(ROOT).parts[0] == floor
        and file != FACE  # it names parts of all floors, and imports them when they are asked for
        for name in imports(file)
        if any(within(name, package) for package in forbidden)
    ]


def test_the_source_is_there() -> None:
    assert {f.relative_to(ROOT).parts[0] for f in FILES} == set(FLOORS)
    assert "fedkt.errors" in set(imports(ROOT / "strategies" / "server" / "attendance.py"))


@pytest.mark.parametrize(
    ("floor", "forbidden"),
    [
        ("fedkt", ("fedkt.strategies", "fedkt.clients", "fedkt.simulations", "ray")),
        ("strategies", ("fedkt.clients", "fedkt.simulations", "ray")),
        ("clients", ("fedkt.strategies", "fedkt.simulations", "ray")),
    ],
)
def test_imports_only_go_down(floor: str, forbidden: tuple[str, ...]) -> None:
    assert offences(floor, *forbidden) == []


# The rooms of each wing from the ground up: a room imports those before it only. A room is a folder
# or, beside the folders, a file; the wing's own ``__init__.py`` is its face, above all of them.
ROOMS: dict[str, tuple[str, ...]] = {
    "fedkt": (
        *(
            "errors",
            "text",
            "options",
            "listing",
            "digests",
            "siblings",
            "rng",
            "registry",
            "docstrings",
            "descriptions",
            "by_value",
            "calls",
            "noise",
            "answers",
            "augmentations",
            "optimisers",
            "schedules",
            "training",
            "machine",
            "disk",
        ),
        *("knowledge", "upload_check", "snapshot"),
        *("fusion", "objectives", "adaptation", "codecs", "decoded", "metrics"),
        *(
            "data",
            "models",
            "about",
            "shares",
            "steps",
            "readouts",
            "recipe",
            "npy",
            "wire",
            "declared",
            "greeting",
            "context",
            "evaluation",
        ),
    ),
    "strategies": (
        "server",
        "construction",
        "__init__",
        "baselines",
        "answers",
        "prototypes",
        "models",
        "weights",
        "domains",
        "oneshot",
    ),
    "clients": (
        *(
            "learners",
            "policy",
            "client",
            "state",
            "phases",
            "personal_answer",
            "turn",
            "cohorts",
            "facts",
        ),
        *("app", "__init__"),
    ),
    "simulations": (
        *(
            "__init__",
            "experiment",
            "engines",
            "attacks",
            "availability",
            "results",
            "runs",
            "report",
            "catalogue",
        ),
        *("api", "deploy", "cli", "testing"),
    ),
}


def name_of(file: Path) -> str:
    """Return the name that a file is imported by."""
    floor, *rest = file.relative_to(ROOT).with_suffix("").parts
    parts = [part for part in rest if part != "__init__"]
    if parts[:1] in (["testing"], ["deploy"]):  # folders of the top floor with names of their own
        floor = "fedkt"
    return ".".join(["fedkt", *([] if floor == "fedkt" else [floor]), *parts])


MODULES = {name_of(file): file for file in FILES if file != FACE}


def imported(file: Path) -> set[str]:
    """Return the modules of the package that a file imports, under the names of ``MODULES``."""
    names = set(imports(file)) & set(MODULES)
    packages = {name.rpartition(".")[0] for name in names}  # `from fedkt import wire`
    return {n for n in names if n not in packages or MODULES[n].name != "__init__.py"}


def room_of(module: str) -> tuple[str, str]:
    """Return the wing and the room that a module is in."""
    floor, *rest = MODULES[module].relative_to(ROOT).with_suffix("").parts
    return floor, rest[0]


def test_every_room_has_a_place() -> None:
    found = {room_of(module) for module in MODULES}
    assert found == {(wing, room) for wing, rooms in ROOMS.items() for room in rooms}


@pytest.mark.parametrize("wing", ROOMS)
def test_within_a_wing_imports_go_down(wing: str) -> None:
    height = {room: number for number, room in enumerate(ROOMS[wing])}
    upwards = [
        f"{module} imports {name}"
        for module, file in MODULES.items()
        for name in imported(file)
        if room_of(module)[0] == room_of(name)[0] == wing
        if height[room_of(name)[1]] > height[room_of(module)[1]]
    ]
    assert upwards == []


def test_there_are_no_circles() -> None:
    arrows = {module: imported(file) - {module} for module, file in MODULES.items()}
    order = {
        module: n for n, module in enumerate(graphlib.TopologicalSorter(arrows).static_order())
    }
    assert len(order) == len(MODULES)
    assert order["fedkt.errors"] < order["fedkt.recipe.recipe"] < order["fedkt.strategies"]


def test_no_two_modules_have_one_name() -> None:
    names = [file.stem for file in FILES if file.stem not in ("__init__", "__main__")]
    assert sorted(n for n, times in Counter(names).items() if times > 1) == []


def test_the_paths_that_people_s_files_use() -> None:
    import fedkt.strategies
    from fedkt.fusion import mean
    from fedkt.knowledge import Knowledge
    from fedkt.objectives import MMD, CrossEntropy, weighted_mean
    from fedkt.recipe import Load, Predict, Recipe, Train, Weights
    from fedkt.registry import register

    named = (mean, Knowledge, MMD, CrossEntropy, weighted_mean, register)
    assert all(map(callable, (*named, Load, Predict, Recipe, Train, Weights)))
    assert fedkt.strategies.KnFu.__name__ == "KnFu"
    assert fedkt.strategies.FedAvg.__module__.startswith("fedkt.strategies.")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        operator.attrgetter("Nothing")(fedkt.strategies)


def test_nobody_imports_a_floor_by_its_folder_name() -> None:
    for floor in FLOORS:
        assert offences(floor, "strategies", "clients", "simulations") == []


def test_on_the_ground_floor_only_wire_knows_flower() -> None:
    users = {line.partition(":")[0] for line in offences("fedkt", "flwr")}
    assert users == {"fedkt/wire.py"}


def test_only_the_shim_touches_private_flower() -> None:
    found = set()
    for file in FILES:
        where = file.relative_to(ROOT).as_posix()
        if where == "simulations/engines/_flwr_shim.py":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            found |= {(where, n) for n in names if within(n, "flwr") and n not in PUBLIC_FLOWER}
    assert found <= TOLERATED_FLOWER


def test_nobody_but_the_shim_writes_flowers_private_attributes() -> None:
    for file in FILES:
        if file.name != "_flwr_shim.py":
            text = file.read_text(encoding="utf-8")
            assert "_message_id" not in text.replace("reply_to_message_id", "")
            assert "TaskIdentity" not in text


def test_import_fedkt_is_cheap() -> None:
    code = "import json, sys, fedkt; print(json.dumps(sorted(sys.modules)))"
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, env=env
    )
    loaded = json.loads(done.stdout)
    heavy = ("torch", "ray", "matplotlib", "pandas", "flwr", "numpy", "sklearn", "datasets")
    assert "fedkt" in loaded
    assert [m for m in loaded if m.partition(".")[0] in heavy] == []


def test_the_parts_that_clients_and_servers_load_need_neither_ray_nor_figures() -> None:
    code = (
        "import sys, json, fedkt.strategies.answers.knfu, fedkt.clients; "
        "print(json.dumps([m for m in ('ray', 'matplotlib', 'pandas', 'datasets', 'jinja2')"
        " if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_lazy_names_are_the_real_ones() -> None:
    import fedkt
    from fedkt.knowledge import Fused, Knowledge, Upload, Uploads
    from fedkt.recipe import Recipe
    from fedkt.registry import register

    assert fedkt.Knowledge is Knowledge
    assert (fedkt.Fused, fedkt.Upload, fedkt.Uploads) == (Fused, Upload, Uploads)
    assert fedkt.Recipe is Recipe
    assert fedkt.register is register
    assert set(fedkt.__all__) - {"__version__"} == set(fedkt._HOME)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        operator.attrgetter("nothing")(fedkt)


def test_the_plugin_of_pytest_is_called_as_its_module_is() -> None:
    """Else ``-p fedkt.testing.plugin`` registers it twice where fedkt is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"fedkt.testing.plugin": "fedkt.testing.plugin"}
