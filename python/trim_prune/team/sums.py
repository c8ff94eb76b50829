"""Sums over groups, added up in one order whoever makes which of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

Node = tuple[int, int]
"""Level and place in a binary tree: node (l, i) is the sum of the groups from i 2^l to (i + 1) 2^l - 1."""


class OrderedSum:
    """A sum of tensors, one of each group, by a binary tree whose leaves are the groups.

    A node is the sum of its two children, or the one that is there: of the same tensors the sum has the same bits,
    also where some of its nodes were made by other processes. Nodes are added as soon as both are there: beside the
    group at hand, of eight groups at most three are held.
    """

    def __init__(self, nodes: Mapping[Node, Tensor] | None = None) -> None:
        self.nodes: dict[Node, Tensor] = dict(nodes or {})
        self._open: Node | None = None

    def part(self, group: int, make: Callable[[], Tensor]) -> Tensor:
        """The sum of one group, to be added to in place; ``make`` gives the zeros that it begins with.

        Groups come in ascending order.
        """
        if self._open != (0, group):
            self.settle()
            self._open = (0, group)
            self.nodes[self._open] = make()
        return self.nodes[self._open]

    def settle(self) -> None:
        """The group at hand is complete."""
        node, self._open = self._open, None
        while node is not None and (sibling := (node[0], node[1] ^ 1)) in self.nodes:
            node = self._lift((node, sibling))

    def total(self) -> Tensor | None:
        """The sum of all groups; None if there was none. Nothing is added afterwards."""
        self.settle()
        while len(self.nodes) > 1:
            lowest = min(level for level, _ in self.nodes)
            for node in sorted(node for node in self.nodes if node[0] == lowest):
                self._lift((node,))
        return next(iter(self.nodes.values()), None)

    def _lift(self, nodes: Iterable[Node]) -> Node:
        """Add nodes to their parent."""
        parent = (0, 0)
        for level, place in nodes:
            parent, tensor = (level + 1, place // 2), self.nodes.pop((level, place))
            # The sum of two has the same bits in either order.
            self.nodes[parent] = self.nodes[parent].add_(tensor) if parent in self.nodes else tensor
        return parent
