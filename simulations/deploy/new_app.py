"""A new Flower app in a folder: what ``fedkt new DIR`` writes."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path

import tomli_w

import fedkt
from fedkt.deploy.deploy_folder import write_deploy_folder
from fedkt.deploy.run_config import PLAIN, defaults_of
from fedkt.deploy.serving import TABLES
from fedkt.disk import write_atomic, writing
from fedkt.errors import ConfigError

# Comments beside the keys that people set; what the others do stands in the docstrings of the
# options of the same name.
COMMENTS = {
    "strategy": 'with options: "knfu(beta=2)"; fedkt list strategies',
    "run-dir": "folder of the run, where the server app runs; empty: a new one below runs/",
    "resume": "whether to go on with what run-dir holds; fedkt resume sets it",
    "clients-file": "clients.toml at the server: whose id is whose; empty: nobody checks",
    "clients": "how many to wait for; 0: whoever is there",
}

MOST_LETTERS = 31  # of a federation's name


def write_app(folder: Path, clients: int = 3) -> list[Path]:
    """Write a Flower app with a server and ``clients`` parties, which runs as it stands.

    Beside it stands ``deploy/``, how the server and the nodes of a federation run.

    Parameters
    ----------
    folder : Path
        Where to; it must not exist, or be empty. Its name becomes that of the app.
    clients : int
        Number of parties.

    Returns
    -------
    list[Path]
        The files written.

    Raises
    ------
    ConfigError
        If the folder holds anything, or its name gives no name for a new Python package.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists; name a new folder.")
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    package = name.replace("-", "_")
    if not package.isidentifier():
        raise ConfigError(f"{folder}: the name of an app begins with a letter.")
    if keyword.iskeyword(package) or _is_installed(package):
        raise ConfigError(f"{folder}: Python has a {package} already; name the app otherwise.")
    words = {
        "PACKAGE": package,
        "NAME": name,
        "VERSION": fedkt.__version__,
        "CLIENTS": str(clients),
    }
    template = files("fedkt.deploy") / "templates" / "app"
    written = {
        place: _filled((template / f"{file}.tmpl").read_text(encoding="utf-8"), words)
        for place, file in {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            f"{package}/server_app.py": "server_app.py",
            f"{package}/client_app.py": "client_app.py",
            f"{package}/data.py": "data.py",
        }.items()
    }
    written["pyproject.toml"] += config_text(clients)
    written[f"{package}/__init__.py"] = f'"""The app {name}."""\n'
    written[".gitignore"] = "runs/\nstate/\n*.safetensors\n*.key\nkeys/\ncerts/\nclients.toml\n"
    for place, text in written.items():
        with writing(folder):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / place, text)
    deploy = write_deploy_folder(folder / "deploy", name[:MOST_LETTERS].strip("-"), clients=clients)
    return [*(folder / place for place in written), *deploy]


def _is_installed(package: str) -> bool:
    """Return whether a package of that name is there: it and the app's would hide each other."""
    return package in sys.stdlib_module_names or package in packages_distributions()


def config_text(clients: int) -> str:
    """Return all keys of a run's configuration with their defaults, as TOML."""
    lines = [_line(key, value) for key, value in PLAIN.items()]
    for table, options in TABLES.items():
        lines += ["", f"[tool.flwr.app.config.{table}]"]
        values = defaults_of(options)
        if "clients" in values:
            values["clients"] = clients
        lines += [_line(key, value) for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _line(key: str, value: str | int | float | bool) -> str:
    line = tomli_w.dumps({key: value}).rstrip()
    return f"{line}  # {COMMENTS[key]}" if key in COMMENTS else line


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
