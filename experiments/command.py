"""Make a recorded result again: ``python -m experiments STUDY``.

Each study writes data/results/STUDY.json, where what it has done already is not done
twice: one that was interrupted goes on. To make a whole record again, move it away.
Ctrl-C and SIGTERM end a study, with status 130.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from inspect import signature

from experiments import (
    cifar10,
    distillation,
    distillation_long,
    division,
    fashion_mnist,
    gaps,
    maps,
    positions,
    published,
    settings,
    starts,
    trails,
    widths,
    wirings,
)
from vitutils.cli.train import ERRORS

MODULES = {
    study: module
    for module in (
        cifar10,
        distillation,
        distillation_long,
        division,
        fashion_mnist,
        gaps,
        maps,
        positions,
        published,
        settings,
        starts,
        trails,
        widths,
        wirings,
    )
    for study in module.ABOUT
}


def main(arguments: Sequence[str]) -> int:
    """Run a study; return the exit status."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=__doc__, formatter_class=layout
    )
    parser.add_argument("study", choices=MODULES, help=about())
    parser.add_argument("--workers", type=int, help="runs at a time (one a core)")
    parser.add_argument(
        "--data",
        help="of the studies of CIFAR-10: cifar10, or a folder of its images, "
        "train/CLASS/* and test/CLASS/*",
    )
    parser.add_argument("--parts", nargs="+", help="of distillation: these alone")
    parser.add_argument(
        "--plan",
        action="store_true",
        help="of distillation: run nothing, print what there is to do and how long",
    )
    parser.add_argument(
        "--toy", action="store_true", help="of distillation_long: tiny, for a trial"
    )
    parser.add_argument(
        "--folder",
        help="of distillation_long: where its record and its runs go "
        "(data/results and runs)",
    )
    options = parser.parse_args(arguments)
    perform = MODULES[options.study].perform
    more = {name: value for name, value in vars(options).items() if value}
    more = {name: more[name] for name in more.keys() - {"study", "workers"}}
    for name in more.keys() - signature(perform).parameters.keys():
        parser.error(f"--{name} is not for {options.study}")
    command = shlex.join(["python", "-m", "experiments", *arguments])
    try:
        path = perform(options.study, command=command, workers=options.workers, **more)
    except ERRORS as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    if not options.plan:
        print(f"recorded in {path}")
    return 0


def about() -> str:
    """Return what each study is."""
    return "; ".join(f"{name}: {mod.ABOUT[name]}" for name, mod in MODULES.items())
