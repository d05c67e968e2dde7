"""The computation graph that autograd recorded, as a picture for the page.

torchviz walks the graph; this module gives it stable names, the book's look and
a renderer that is there on every machine.
"""

import base64
import html
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

# graphviz-pure first: it draws the same picture, byte for byte, wherever it runs,
# so that committed graphs can be compared. A system's dot draws its own.
ENGINES = ("graphviz-pure", "dot")
STYLES = {  # by torchviz's fill color: what the node is, and the book's colors
    None: ("operation", 'fillcolor="#EEF0F3" color="#8A9099"'),
    "lightblue": ("parameter", 'fillcolor="#CBE5F6" color="#0072B2"'),
    "orange": ("saved tensor", 'fillcolor="#FBE3B5" color="#E69F00"'),
    "darkolivegreen1": ("output", 'fillcolor="#BFE6D9" color="#009E73"'),
    "darkolivegreen3": ("output", 'fillcolor="#BFE6D9" color="#009E73"'),
}
ACCUMULATE = "AccumulateGrad"  # stands between each leaf and its use: left out
INPUT_STYLE = ("input", 'fillcolor="#FBE3B5" color="#E69F00"')
NODE = re.compile(r"\t(\d+) \[label=(.*?)(?: fillcolor=(\w+))?\]\n?", re.DOTALL)
EDGE = re.compile(r"\t(\d+) -> (\d+)(?: \[(.*)\])?\n?")
HEAD = """digraph {
\tgraph [bgcolor=transparent nodesep=0.12 ranksep=0.22]
\tnode [shape=box style="filled,rounded" fontname="Arial"
\t      fontsize=14 fontcolor="#1B1F24" height=0.3 margin="0.1,0.05"]
\tedge [color="#7D8590" arrowsize=0.7]
"""


class Node(NamedTuple):
    """A node of the graph: its text, and what it is.

    Attributes:
        label: what stands in its box.
        kind: "operation", "parameter", "input" (a leaf without a name), "output" or
            "saved tensor".
    """

    label: str
    kind: str


class Graph:
    """A computation graph that a notebook shows in a box that scrolls.

    It is torchviz's, less the AccumulateGrad node behind each leaf.

    Attributes:
        nodes: tuple of ``Node``, in the order met from the output back.
        edges: tuple of (from, to, style), positions in ``nodes``.
        missing: names of the given parameters that the graph does not reach:
            ``backward`` will give them no gradient.
    """

    def __init__(
        self,
        body: Sequence[str],
        names: Mapping[int, str],
        *,
        alt: str | None = None,
        max_height: int = 480,
        engine: str | None = None,
    ):
        found, links = parse(body)
        leaves = {to: leaf for leaf, to, _ in links if found[to][0] == ACCUMULATE}
        kept = [address for address in found if address not in leaves]
        number = {address: i for i, address in enumerate(kept)}
        self.nodes = tuple(make_node(*found[a], named=int(a) in names) for a in kept)
        self.edges = tuple(
            (number[leaves.get(start, start)], number[end], style)
            for start, end, style in links
            if end not in leaves
        )
        self.missing = tuple(n for i, n in names.items() if str(i) not in number)
        self.alt, self.max_height, self.engine = alt or repr(self), max_height, engine

    def __repr__(self) -> str:
        kinds = [node.kind for node in self.nodes]
        return (
            f"Computation graph: {len(kinds)} nodes, {len(self.edges)} edges, "
            f"{kinds.count('parameter')} parameters"
        )

    @cached_property
    def source(self) -> str:
        """The graph in Graphviz's DOT language."""
        styles = dict([*STYLES.values(), INPUT_STYLE])
        lines = [HEAD]
        for i, (label, kind) in enumerate(self.nodes):
            text = label.replace("\n", "\\n")
            lines.append(f'\tn{i} [label="{text}" {styles[kind]}]\n')
        lines += [f"\tn{a} -> n{b} [{style}]\n" for a, b, style in self.edges]
        return "".join([*lines, "}\n"])

    @cached_property
    def svg(self) -> str:
        """The picture.

        Raises:
            RuntimeError: no program to draw it is found, or it fails.
        """
        command = [find_engine(self.engine), "-Tsvg"]
        done = subprocess.run(
            command, input=self.source, capture_output=True, encoding="utf-8"
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()}")
        return done.stdout.replace('"Arial"', '"Arial,sans-serif"')

    def _repr_mimebundle_(self, **_):
        width = round(float(re.search(r'width="([\d.]+)pt"', self.svg).group(1)))
        data = base64.b64encode(self.svg.encode()).decode()
        box = f"max-height: {self.max_height}px; overflow: auto; padding: 8px; "
        image = f"max-width: max(100%, {round(0.7 * width)}px); height: auto; "
        plain = "background: none; padding: 0; filter: none"  # no card in the card
        picture = (
            f'<div tabindex="0" style="{box}border: 1px solid #8A909966">'
            f'<img alt="{html.escape(self.alt)}" width="{width}" '
            f'style="{image}{plain}" src="data:image/svg+xml;base64,{data}"></div>'
        )
        return {"text/plain": repr(self), "text/html": picture}


def computation_graph(
    output: Tensor | tuple[Tensor, ...],
    params: nn.Module | Mapping[str, Tensor] | None = None,
    *,
    alt: str | None = None,
    max_height: int = 480,
    engine: str | None = None,
) -> Graph:
    """Draw how ``output`` was computed: the operations that autograd recorded.

    Args:
        output: a tensor, or a tuple of them, computed with gradients recorded.
        params: the module, or a dict of name to tensor, whose names to show.
        alt: what a reader who cannot see the picture should be told.
        max_height: of the box on the page, in pixels; a taller graph scrolls.
        engine: "graphviz-pure" or "dot" instead of the first one found.

    Returns:
        A ``Graph``, which a notebook displays.

    Raises:
        ValueError: the output has no graph.
        ImportError: torchviz, or the setuptools that it needs, is missing.
        RuntimeError: (when drawn) neither graphviz-pure nor dot is found.
    """
    outputs = output if isinstance(output, tuple) else (output,)
    if not all(tensor.grad_fn is not None for tensor in outputs):
        raise ValueError(
            "the output has no computation graph: compute it from parameters that "
            "require gradients, outside torch.no_grad()"
        )
    if isinstance(params, nn.Module):
        params = dict(params.named_parameters())
    params = params or {}
    names = {id(tensor): name for name, tensor in params.items()}
    body = import_make_dot()(output, params=params).body
    return Graph(body, names, alt=alt, max_height=max_height, engine=engine)


def parse(
    body: Sequence[str],
) -> tuple[dict[str, tuple[str, str | None]], list[tuple[str, str, str]]]:
    """Return torchviz's nodes {address: (label, fill)} and links (from, to, style)."""
    nodes, links = {}, []
    for line in body:
        if match := EDGE.fullmatch(line):
            links.append((*match.group(1, 2), match.group(3) or ""))
        else:
            address, label, fill = NODE.fullmatch(line).groups()
            nodes[address] = (label.strip('"'), fill)
    return nodes, links


def make_node(label: str, fill: str | None, *, named: bool) -> Node:
    """Return the ``Node`` for torchviz's label and fill; a leaf may have no name."""
    kind = STYLES[fill][0]
    if kind == "parameter" and not named:
        kind = "input"
    name, _, shape = label.partition("\n ")
    return Node(f"{name or kind}\n{shape}".strip(), kind)


def import_make_dot() -> Callable:
    """Return torchviz's ``make_dot``, or say what to install."""
    try:
        from torchviz import make_dot
    except ModuleNotFoundError as error:
        missing = error.name.split(".")[0]  # distutils left Python in 3.12
        package = "setuptools" if missing == "distutils" else missing
        raise ImportError(
            f"the computation graph needs {package}: pip install {package}"
        ) from error
    return make_dot


def find_engine(name: str | None = None) -> str:
    """Return the path of the program that draws graphs.

    Scripts of this Python are looked up too: its folder need not be on the PATH.
    """
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    wanted = (name,) if name else ENGINES
    for program in wanted:
        if found := shutil.which(program, path=path):
            return found
    raise RuntimeError(
        f"no {' or '.join(wanted)} found to draw the graph: pip install graphviz-pure"
    )
