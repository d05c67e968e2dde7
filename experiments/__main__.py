"""Make a recorded result again: ``python -m experiments STUDY``.

Each study writes data/results/STUDY.json, where what it has done already is not done
twice: one that was interrupted goes on. To make a whole record again, move it away.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from experiments import cifar10, deit_tables, fashion_mnist

MODULES = {
    study: module
    for module in (deit_tables, cifar10, fashion_mnist)
    for study in module.ABOUT
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
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
        parser.error(f"--data is not for {options.study}, whose data is Fashion-MNIST")
    command = shlex.join(["python", "-m", "experiments", *arguments])
    perform = MODULES[options.study].perform
    try:
        path = perform(options.study, command=command, workers=options.workers, **more)
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    print(f"recorded in {path}")
    return 0


def about() -> str:
    """Return what each study is."""
    return "; ".join(f"{name}: {mod.ABOUT[name]}" for name, mod in MODULES.items())


if __name__ == "__main__":
    raise SystemExit(main())
