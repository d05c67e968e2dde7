"""vitutils as a package: what it requires, and a wheel of it installed elsewhere."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement

import vitutils

# Required though nothing of this name is imported.
BY_OTHERS = {
    "setuptools",  # by torchviz, for distutils
    "graphviz-pure",  # run as a program
    "onnx",  # by torch, as it exports
    "onnxscript",
}
IN_NOTEBOOKS = {"matplotlib-inline"}  # imported where IPython runs, which brings it
EVERY_MODULE = """
import importlib, pkgutil, vitutils
for module in pkgutil.walk_packages(vitutils.__path__, "vitutils."):
    importlib.import_module(module.name)
    print(module.name)
"""


@pytest.fixture(scope="module")
def project(root):
    """The table [project] of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]


def files_of(root):
    """Return the files of the package, by their path in the repository."""
    found = (path for path in (root / "vitutils").rglob("*") if path.is_file())
    paths = {path.relative_to(root).as_posix() for path in found}
    return {path for path in paths if "__pycache__" not in path}


def test_it_requires_what_it_imports_and_nothing_else(root, project):
    imported = set()
    for path in (root / "vitutils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    imported -= {"vitutils", *sys.stdlib_module_names}
    provided = packages_distributions()
    needed = {provided[name][0].lower().replace("_", "-") for name in imported}
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    required = {Requirement(line).name for line in lines}
    assert len(required) == len(lines)
    assert required == (needed - IN_NOTEBOOKS) | BY_OTHERS


def test_one_version_everywhere(root, project):
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    source = settings["tool"]["setuptools"]["dynamic"]["version"]
    assert project["dynamic"] == ["version"]
    assert source == {"attr": "vitutils.__version__"}
    citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == vitutils.__version__
    changes = (root / "CHANGELOG.md").read_text("utf-8")
    latest = re.search(r"(?m)^## (\S+) \((\S+)\)$", changes)
    assert latest.groups() == (vitutils.__version__, str(citation["date-released"]))


def test_citation_has_the_authors_the_license_and_the_address(root, config, project):
    citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["title"] == config["title"]
    assert [one["name"] for one in citation["authors"]] == [config["author"]]
    assert project["authors"] == [{"name": config["author"]}]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == config["repository"]["url"]
    assert project["urls"]["Source"] == config["repository"]["url"]


def test_the_book_describes_every_piece(root):
    page = (root / "book" / "api.md").read_text("utf-8")
    described = set()
    for module, options in re.findall(r"automodule:: (\S+)\n((?:   :.*\n)+)", page):
        names = re.search(r":members: (.*)", options)[1].split(", ")
        described |= {f"{module}.{name}" for name in names}
    missing = [
        f"book/api.md: no {name} of vitutils.{module}, chapter {number}"
        for number, modules in vitutils.CHAPTERS.items()
        for module, names in modules.items()
        for name in names
        if f"vitutils.{module}.{name}" not in described
    ]
    if missing:
        pytest.fail("\n".join(missing), pytrace=False)


class Installed(NamedTuple):
    """A virtual environment with the wheel, and the wheel."""

    scripts: Path
    wheel: Path

    def run(self, *command, folder):
        """Run a command of the environment in a folder, and return what came of it."""
        ours = ("PYTHON", "VIRTUAL_ENV")
        variables = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        command = [self.scripts / command[0], *command[1:]]
        return subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True
        )


@pytest.fixture(scope="module")
def installed(root, made_once):
    """The wheel, installed beside the packages of this environment, without network."""
    base = made_once("package", lambda folder: build_and_install(root, folder))
    (wheel,) = base.glob("*.whl")
    return Installed(places(base / "environment")["scripts"], wheel)


def places(environment):
    """Return where a virtual environment has its scripts and packages."""
    base = {"base": str(environment), "platbase": str(environment)}
    return {name: Path(path) for name, path in sysconfig.get_paths(vars=base).items()}


def build_and_install(root, base):
    """Build a wheel of the package, and install it in a virtual environment."""
    source, environment = base / "source", base / "environment"
    shutil.copytree(root / "vitutils", source / "vitutils")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", *options, "--no-build-isolation", "-w", base, source]
    subprocess.run(build, check=True)
    venv = [sys.executable, "-m", "venv", "--without-pip", environment]
    subprocess.run(venv, check=True)
    python = ["--python", places(environment)["scripts"] / "python"]
    subprocess.run(
        [*pip, *python, "install", *options, *base.glob("*.whl")], check=True
    )
    # This environment's packages come behind its own. The clone does not come with
    # them: .pth files of a folder that is itself named in one are not read.
    ours = sysconfig.get_path("purelib")
    (places(environment)["purelib"] / "others.pth").write_text(f"{ours}\n")


@pytest.mark.slow(4)
def test_the_wheel_holds_every_file_of_the_package(installed, root):
    held = zipfile.ZipFile(installed.wheel).namelist()
    assert {name for name in held if ".dist-info/" not in name} == files_of(root)
    assert f"vitutils-{vitutils.__version__}-" in installed.wheel.name


@pytest.mark.slow(5)
def test_every_module_imports_from_the_wheel(installed, root, tmp_path):
    done = installed.run("python", "-c", EVERY_MODULE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    modules = {name.removesuffix(".py") for name in files_of(root) if ".py" in name}
    modules = {name.removesuffix("/__init__").replace("/", ".") for name in modules}
    assert {"vitutils", *done.stdout.split()} == modules
    where = installed.run(
        "python", "-c", "import vitutils; print(vitutils.__file__)", folder=tmp_path
    )
    assert Path(where.stdout).is_relative_to(installed.scripts.parent)


@pytest.mark.slow(10)
def test_the_command_trains_from_an_empty_folder(installed, root, tmp_path):
    short = ["--epochs", "1", "--images", "500"]
    places = ["--root", root / "data", "--folder", "out"]
    command = ["vitutils", "train", "fashion_mnist", *short, *places]
    done = installed.run(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"best.safetensors", "last.pt", "result.json"} <= names


@pytest.mark.slow(4)
def test_the_command_says_in_a_sentence_where_data_is_to_come_from(installed, tmp_path):
    done = installed.run("vitutils", "train", "fashion_mnist", folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1 and "--root" in done.stderr
    assert list(tmp_path.iterdir()) == []
