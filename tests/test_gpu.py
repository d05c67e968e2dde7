"""benchmarks/gpu.sh on the CPU: every part runs, whatever becomes of the others."""

import io
import json
import os
import subprocess
import sys
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def gpu(folder, *options, **environment):
    """Run the script; return its status, how each part ended, and the records."""
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--quick", *options],
        cwd=ROOT,
        env=os.environ | {"OUT": str(folder), "PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    summary = (folder / "summary.txt").read_text()
    parts = [line for line in summary.splitlines() if " s of " in line]
    assert all(line in done.stdout for line in parts)
    ends = {line.split()[0]: line[12:24].strip() for line in parts}
    records = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
    return done.returncode, ends, records


@pytest.fixture
def archive(tmp_path):
    """A few images in an archive, as CIFAR-10 comes to a machine with a GPU."""
    draw = np.random.default_rng(0)
    path, count = tmp_path / "few.tar", {"train": 560, "test": 20}
    with tarfile.open(path, "w") as archive:
        for part, kind in product(count, ("cat", "dog")):
            for number in range(count[part]):
                pixels, file = draw.integers(256, size=(32, 32, 3)), io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
                entry = tarfile.TarInfo(f"{part}/{kind}/{number}.png")
                entry.size = file.tell()
                file.seek(0)
                archive.addfile(entry, file)
    return path


@pytest.mark.slow(60)
def test_each_part_writes_its_record(tmp_path, archive):
    folder = tmp_path / "out"
    status, ends, records = gpu(folder, "-k", "fp16", "--data", str(archive))
    assert ends == dict.fromkeys(("tests", "throughput", "speed", "study"), "passed")
    assert status == 0
    assert records.keys() == ends.keys()
    tests, throughput, speed, study = (records[name] for name in ends)
    assert tests["ended"]
    assert {row["outcome"] for row in tests["tests"]} == {"passed"}
    assert [row["mode"] for row in throughput["rows"]] == ["forward", "train"]
    assert {"timm", "torchvision"} <= throughput["rows"][0]["ratio_to"].keys()
    assert "class token alone" in throughput["last_block"]
    assert speed["rows"][0]["images_per_second"].keys() == {"ours", "timm"}
    assert study["settings"]["data"] == "few"
    arms = [run["task"]["arm"] for run in study["runs"]]
    assert [arms.count(arm) for arm in ("teacher", "none", "token")] == [4, 9, 9]
    assert all(len(run["history"]) in (1, 2) for run in study["runs"])
    # What comes back from a lent machine is few and small files.
    assert len([*folder.iterdir()]) <= 10


# An interpreter whose first part fails, and whose others take longer than they may.
ILL = """\
#!/bin/sh
case "$*" in
  *cuda_tests*) exit 5 ;;
  *throughput* | *accuracy_and_speed* | *distillation_long*) sleep 60 ;;
  *) cat > /dev/null && exit 1 ;;
esac
"""


@pytest.mark.slow(4)
def test_parts_that_fail_cost_the_next_one_nothing(tmp_path):
    python = tmp_path / "python"
    python.write_text(ILL)
    python.chmod(0o755)
    named = ("LIMIT_THROUGHPUT", "LIMIT_SPEED", "LIMIT_STUDY")
    limits = dict.fromkeys(named, "1")
    status, ends, records = gpu(tmp_path / "out", PYTHON=str(python), **limits)
    assert ends == {
        "tests": "failed (5)",
        "throughput": "timed out",
        "speed": "timed out",
        "study": "timed out",  # it was begun, after the others' ends
    }
    assert (status, records) == (1, {})
