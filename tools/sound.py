"""Say yes if the .venv whose Python runs this can be kept, else nothing.

    .venv/bin/python tools/sound.py [PYTHON]

It can be kept if its Python is new enough, and of the version of PYTHON where one is
named, and if pip has left no package half there.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path


def version(python):
    """Return the version of a Python, given as the words that start it."""
    code = "import sys; print(*sys.version_info[:2])"
    return subprocess.check_output([*python, "-c", code])


def whole(site):
    """Tell whether a folder of packages has pip and no package that is half there.

    pip writes the RECORD of a package last, and renames to ~ what it will remove.
    """
    packages = [*site.glob("*.dist-info")]
    return (
        (site / "pip" / "__main__.py").exists()
        and any(site.glob("pip-*.dist-info"))
        and all((package / "RECORD").exists() for package in packages)
        and not any(site.glob("~*"))
    )


if __name__ == "__main__":
    ours = [sys.executable]
    if (
        sys.version_info >= (3, 11)
        and version(sys.argv[1:] or ours) == version(ours)
        and whole(Path(sysconfig.get_path("purelib")))
    ):
        print("yes")
