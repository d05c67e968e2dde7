"""Where vitutils is missing, as in Colab: make this clone's importable.

A chapter's set-up cell runs this file. It installs what the book needs beyond PyTorch
and matplotlib, if it is missing. The torch, torchvision and numpy that are there stay.
"""

import subprocess
import sys
from importlib import metadata
from pathlib import Path


def install(wanted, *options):
    """Install those of the packages that are missing."""
    if missing := wanted - {found.name for found in metadata.distributions()}:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", *options]
        subprocess.run([*pip, *sorted(missing)], check=True)


sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
install({"graphviz", "graphviz-pure", "safetensors", "torchviz", "tqdm"}, "--no-deps")
install({"tensorboard"})
