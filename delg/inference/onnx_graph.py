"""What depends on what in an ONNX graph."""

from __future__ import annotations

import onnx


def ancestors(nodes: list[onnx.NodeProto], names: list[str]) -> set[int]:
    """Numbers of the nodes that some tensors depend on."""
    producers = {name: i for i, node in enumerate(nodes) for name in node.output}
    ancestors: set[int] = set()
    pending = list(names)
    while pending:
        i = producers.get(pending.pop())
        if i is not None and i not in ancestors:
            ancestors.add(i)
            pending.extend(tensors_read(nodes[i]))
    return ancestors


def tensors_read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, and what the nodes in its branches do."""
    branches = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    inner = [name for branch in branches for child in branch.node for name in tensors_read(child)]
    return [*node.input, *inner]
