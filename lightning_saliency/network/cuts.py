"""Which layers all of a score's dependence on the image goes through."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

# Paths are as many as two to the number of residual blocks. Counted modulo a prime, two numbers
# that are different come out equal once in 2e18 times.
_PRIME = (1 << 61) - 1


def are_cuts(score: Tensor, image: Tensor, edges: Sequence[GradientEdge]) -> list[bool]:
    """Return for each edge whether every path from the score to the image goes through it.

    A layer's output is such a cut if as many paths lead from the score through it to the image
    as lead from the score to the image in all. Branches of residual blocks, queries and keys and
    attention matrices are none.

    Args:
        score: of any shape, part of a graph.
        image: the leaf that the graph begins at.
        edges: what layers put out, as ``torch.autograd.graph.get_gradient_edge`` gives it.
    """
    order = _sorted(get_gradient_edge(score).node)
    leaf = get_gradient_edge(image).node
    below: dict[Node, int] = {}
    for node in reversed(order):
        inputs = [below[n] for n, _ in node.next_functions if n is not None]
        below[node] = 1 if node == leaf else sum(inputs) % _PRIME
    above: dict[Node, int] = {order[0]: 1}
    start = get_gradient_edge(score)
    above_edge: dict[tuple[Node, int], int] = {(start.node, start.output_nr): 1}
    for node in order:
        for inner, number in node.next_functions:
            if inner is not None:
                paths = above[node]
                above[inner] = (above.get(inner, 0) + paths) % _PRIME
                edge = inner, number
                above_edge[edge] = (above_edge.get(edge, 0) + paths) % _PRIME
    paths_in_all = below[order[0]]
    return [
        paths_in_all > 0
        and above_edge.get((edge.node, edge.output_nr), 0) * below.get(edge.node, 0) % _PRIME
        == paths_in_all
        for edge in edges
    ]


def _sorted(start: Node) -> list[Node]:
    """Return the nodes of a graph, each before those that it was computed from."""
    order: list[Node] = []
    done: set[Node] = set()
    waiting: list[tuple[Node, bool]] = [(start, False)]
    while waiting:
        node, is_left = waiting.pop()
        if is_left:
            order.append(node)
        elif node not in done:
            done.add(node)
            waiting.append((node, True))
            inner = [n for n, _ in node.next_functions if n is not None]
            waiting.extend((n, False) for n in inner if n not in done)
    return order[::-1]
