"""The computation graph: complete, named, the same on every run, and drawn."""

import base64
import os
import re
import stat
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from vitutils.encoder import Block
from vitutils.plot import graph as graph_module
from vitutils.plot.graph import computation_graph, find_engine

BLOCK = """
import torch
from vitutils.encoder import Block
from vitutils.plot.graph import computation_graph
padding = [object() for _ in range({padding})]  # moves every later address
block = Block(embed_dim=8, num_heads=2, mlp_dim=16)
graph = computation_graph(block(torch.ones(1, 3, 8))[0].sum(), block)
print(graph.source, graph.svg)
"""


class SharedProjection(nn.Module):
    """The bug of the field: one projection makes queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.w_q, self.w_k, self.w_v = (nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, x):
        q, k, v = self.w_q(x), self.w_q(x), self.w_q(x)
        return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v


@pytest.fixture(scope="module")
def block_graph():
    block = Block(embed_dim=8, num_heads=2, mlp_dim=16)
    return block, computation_graph(block(torch.ones(1, 3, 8))[0].sum(), block)


def edges_by_label(graph):
    return [(graph.nodes[a].label, graph.nodes[b].label) for a, b, _ in graph.edges]


def test_small_graph_is_exactly_what_was_computed():
    weight = torch.ones(2, 3, requires_grad=True)
    x = torch.ones(3, 1, requires_grad=True)
    graph = computation_graph((weight @ x).relu(), {"weight": weight})
    assert set(graph.nodes) == {
        ("output\n(2, 1)", "output"),
        ("ReluBackward0", "operation"),
        ("MmBackward0", "operation"),
        ("weight\n(2, 3)", "parameter"),
        ("input\n(3, 1)", "input"),
    }
    assert sorted(edges_by_label(graph)) == [
        ("MmBackward0", "ReluBackward0"),
        ("ReluBackward0", "output\n(2, 1)"),
        ("input\n(3, 1)", "MmBackward0"),
        ("weight\n(2, 3)", "MmBackward0"),
    ]
    assert str(graph) == "Computation graph: 5 nodes, 4 edges, 1 parameters"


def test_every_parameter_is_labelled_with_name_and_shape(block_graph):
    block, graph = block_graph
    expected = {
        f"{name}\n({', '.join(map(str, p.shape))})"
        for name, p in block.named_parameters()
    }
    assert {n.label for n in graph.nodes if n.kind == "parameter"} == expected
    assert graph.missing == ()


def test_every_parameter_leads_to_the_output(block_graph):
    _, graph = block_graph
    reached, count = {0}, 0
    assert graph.nodes[0].kind == "output"
    while len(reached) > count:
        count = len(reached)
        reached |= {start for start, end, _ in graph.edges if end in reached}
    assert reached == set(range(len(graph.nodes)))


def test_agrees_with_torchviz_but_for_accumulate_grad(block_graph):
    block, graph = block_graph
    from torchviz import make_dot

    body = make_dot(block(torch.ones(1, 3, 8))[0].sum()).body
    accumulators = sum("AccumulateGrad" in line for line in body)
    nodes = sum("->" not in line for line in body)
    assert accumulators == len(list(block.parameters()))
    assert len(graph.nodes) == nodes - accumulators
    assert len(graph.edges) == len(body) - nodes - accumulators


def test_shared_projection_shows_as_missing_parameters():
    model = SharedProjection()
    out = model(torch.randn(2, 3, 4))
    assert computation_graph(out, model).missing == ("w_k.weight", "w_v.weight")
    out.sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == ["w_k.weight", "w_v.weight"]


@pytest.mark.slow
def test_dot_and_svg_are_identical_in_two_processes(capsys):
    other = subprocess.check_output(
        [sys.executable, "-c", BLOCK.format(padding=12345)],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        text=True,
    )
    exec(BLOCK.format(padding=0), {})
    assert capsys.readouterr().out == other
    assert "<svg" in other


def test_svg_draws_each_node_with_its_colour_and_each_edge(block_graph):
    _, graph = block_graph
    root = ElementTree.fromstring(graph.svg)
    groups = [g for g in root.iter() if g.tag.endswith("}g")]
    nodes = [g for g in groups if g.get("class") == "node"]
    edges = [g for g in groups if g.get("class") == "edge"]
    assert (len(nodes), len(edges)) == (len(graph.nodes), len(graph.edges))
    fills = [
        next(e.get("fill") for e in g if e.get("fill", "none") != "none") for g in nodes
    ]
    kinds = {
        graph.nodes[int(g[0].text[1:])].kind: fill
        for g, fill in zip(nodes, fills, strict=True)
    }
    assert kinds == {
        "output": "#bfe6d9",
        "operation": "#eef0f3",
        "parameter": "#cbe5f6",
    }
    texts = "".join(root.itertext())
    assert "attn.qkv.weight" in texts and "(24, 8)" in texts
    assert "white" not in graph.svg  # no opaque ground on a dark page


def test_notebook_shows_the_svg_in_a_box_with_alt_text(block_graph):
    block, _ = block_graph
    graph = computation_graph(
        block(torch.ones(1, 3, 8))[0], block, alt='a "block" & more', max_height=321
    )
    bundle = graph._repr_mimebundle_()
    assert bundle["text/plain"] == str(graph)
    page = bundle["text/html"]
    assert 'alt="a &quot;block&quot; &amp; more"' in page
    assert "max-height: 321px" in page and "overflow: auto" in page
    data = re.search(r"data:image/svg\+xml;base64,([^\"]+)", page).group(1)
    assert base64.b64decode(data).decode() == graph.svg


def test_alt_text_without_one_says_what_it_is(block_graph):
    _, graph = block_graph
    assert f'alt="{graph}"' in graph._repr_mimebundle_()["text/html"]


def test_no_dot_on_the_path_is_needed(block_graph, monkeypatch, tmp_path):
    block, graph = block_graph
    monkeypatch.setenv("PATH", str(tmp_path))
    again = computation_graph(block(torch.ones(1, 3, 8))[0].sum(), block)
    assert again.svg == graph.svg


def fake_engine(folder, name, script):
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@pytest.fixture
def only_this_folder(monkeypatch, tmp_path):
    """A machine whose programs all lie in one folder, empty at first."""
    empty = tmp_path / "scripts"
    empty.mkdir()
    monkeypatch.setattr(graph_module.sysconfig, "get_path", lambda _: str(empty))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_system_dot_serves_where_graphviz_pure_is_missing(only_this_folder):
    dot = fake_engine(only_this_folder, "dot", "echo '<svg>from dot</svg>'")
    assert find_engine() == dot
    weight = torch.ones(1, requires_grad=True)
    assert "from dot" in computation_graph(weight * 2).svg
    pure = fake_engine(only_this_folder, "graphviz-pure", "exit 0")
    assert find_engine() == pure
    assert find_engine("dot") == dot


def test_no_engine_says_what_to_install(only_this_folder):
    graph = computation_graph(torch.ones(1, requires_grad=True) * 2)
    assert len(graph.nodes) == 3  # the graph itself needs no engine
    with pytest.raises(RuntimeError, match="pip install graphviz-pure"):
        _ = graph.svg


def test_failing_engine_is_quoted(only_this_folder):
    fake_engine(only_this_folder, "dot", "echo 'out of ink' >&2; exit 3")
    graph = computation_graph(torch.ones(1, requires_grad=True) * 2)
    with pytest.raises(RuntimeError, match="out of ink"):
        _ = graph.svg


def test_output_without_graph():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        out = layer(torch.ones(1, 2))
    with pytest.raises(ValueError, match="no computation graph"):
        computation_graph(out, layer)


def test_torchviz_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchviz", None)
    with pytest.raises(ImportError, match="pip install torchviz"):
        computation_graph(torch.ones(1, requires_grad=True) * 2)


def test_setuptools_missing(monkeypatch):
    for name in ("torchviz", "torchviz.dot"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "distutils", None)
    monkeypatch.setitem(sys.modules, "distutils.version", None)
    with pytest.raises(ImportError, match="pip install setuptools"):
        computation_graph(torch.ones(1, requires_grad=True) * 2)


def test_tuple_of_outputs():
    x = torch.ones(2, requires_grad=True)
    graph = computation_graph((x.exp(), x.sin()), {"x": x})
    assert [n.kind for n in graph.nodes].count("output") == 2
    assert [n.label for n in graph.nodes if n.kind == "parameter"] == ["x\n(2)"]
