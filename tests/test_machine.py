"""Numbers are kept with where they were measured, as JSON that any program reads."""

import json
import math
import platform
from datetime import date
from importlib.metadata import version

import pytest
import torch

from vitutils.engine import machine as module
from vitutils.engine.machine import CORES, device_name, machine, write_json


def test_json_is_written_for_people_too(tmp_path):
    content = {"name": "Tür", "rows": [{"loss": 0.5}, {"loss": None}]}
    write_json(content, tmp_path / "new" / "result.json")
    text = (tmp_path / "new" / "result.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.startswith('{\n "name"') and text.endswith("}\n")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path, number):
    path = tmp_path / "result.json"
    write_json({"loss": 0.5}, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"loss": number}, path)
    assert json.loads(path.read_text()) == {"loss": 0.5}


def test_a_machine_is_its_date_device_cores_and_versions():
    assert machine("torch", "numpy") == {
        "date": date.today().isoformat(),
        "device": device_name("cpu"),
        "cores": CORES,
        "python": platform.python_version(),
        "versions": {"torch": version("torch"), "numpy": version("numpy")},
    }


def test_a_device_is_called_by_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a large GPU")
    assert machine(device="cuda")["device"] == device_name("cuda") == "a large GPU"
    monkeypatch.setattr(platform, "processor", lambda: "some processor")
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "Path", {"/proc/cpuinfo": cpuinfo}.get)
    assert device_name("cpu") == "some processor"
    cpuinfo.write_text("processor\t: 0\n")
    assert device_name("cpu") == "some processor"
    cpuinfo.write_text("vendor: x\nmodel name\t: Fast CPU: 2 GHz\nmodel name\t: Slow\n")
    assert device_name("cpu") == "Fast CPU: 2 GHz"
