"""Make a recorded result again: ``python -m experiments STUDY``.

Each study writes data/results/STUDY.json, where what it has done already is not done
twice: one that was interrupted goes on. To make a whole record again, move it away.
Ctrl-C and SIGTERM end a study, with status 130.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from experiments import cifar10, deit_tables, fashion_mnist, settings, trails, wirings
from vitutils.cli.train import ERRORS

MODULES = {
    study: module
    for module in (deit_tables, cifar10, fashion_mnist, settings, trails, wirings)
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
    options = parser.parse_args(arguments)
    more = {"data": options.data} if options.data else {}
    if more and MODULES[options.study] is not cifar10:
        parser.error(f"--data is not for {options.study}: its data come with the book")
    command = shlex.join(["python", "-m", "experiments", *arguments])
    perform = MODULES[options.study].perform
    try:
        path = perform(options.study, command=command, workers=options.workers, **more)
    except ERRORS as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    print(f"recorded in {path}")
    return 0


def about() -> str:
    """Return what each study is."""
    return "; ".join(f"{name}: {mod.ABOUT[name]}" for name, mod in MODULES.items())
