"""The header of a .sqz file of version 2: a model's graph as JSON.

`docs/sqz.md` says the same field by field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keras_squeezenet.checks import is_int
from keras_squeezenet.sqz import container
from keras_squeezenet.sqz.graph import (
    INPUT,
    MAX_DEPTH,
    MAX_NODES,
    MODEL,
    Graph,
    Node,
    as_tuple,
    check_name,
    checked_arguments,
    input_arguments,
    without_defaults,
)
from keras_squeezenet.sqz.layer_kinds import KINDS
from keras_squeezenet.sqz.reading import Bytes, SqzError

MAX_HEADER = 2**21  # bytes, inflated

# What most headers are made of: raw deflate takes it as having come before.
DICTIONARY = (
    b'"stretch","mixed_float16","channels_first","UpSampling2D","SeparableConv2D",'
    b'{"scale":0.00392156862745098}],["Normalization","ZeroPadding2D","conv_pad",'
    b'{"padding":[[0,1],[0,1]]}],["LayerNormalization","layer_normalization",{"shape":'
    b'["SpatialDropout2D","LeakyReLU","leaky_re_lu","Multiply","multiply","Concatenate","concatenate"'
    b',{"axis":3},["Fire","fire2",{"squeeze_filters":16,"expand1x1_filters":64,'
    b'"expand3x3_filters":64,"channels":96}],["CeilMaxPooling2D","pool1"],["ImagePreprocessing",'
    b'"preprocessing",{"mode":"torch"}],["Rescaling","rescaling",{"scale":0.00784313725490196,'
    b'"offset":-1.0}],["Flatten","flatten"],["MaxPooling2D","max_pooling2d",{"pool_size":[2,2],'
    b'"strides":[2,2]}],["AveragePooling2D","Add","block_1_add",null,[4,12]],["Activation",'
    b'"activation",{"activation":"sigmoid"}],["Reshape","reshape",{"target_shape":[1,1,'
    b'["DepthwiseConv2D","block_1_depthwise",{"kernel_size":[3,3],"strides":[2,2],"padding":"same",'
    b'"use_bias":false,"channels":96}],["BatchNormalization","block_1_depthwise_BN",{"momentum":0.999,'
    b'"channels":96}],["ReLU","block_1_depthwise_relu",{"max_value":6.0}],["Conv2D","block_1_project",'
    b'{"filters":16,"kernel_size":[1,1],"padding":"same","use_bias":false,"channels":96}],'
    b'["BatchNormalization","block_1_project_BN",{"epsilon":1.001e-05,"channels":16}],["model",'
    b'["functional",[false,[["Input","input_layer",{"shape":[null,224,224,3]}],["Conv2D","conv2d",'
    b'{"filters":32,"kernel_size":[3,3],"activation":"relu","channels":3}],["GlobalAveragePooling2D",'
    b'"global_average_pooling2d"],["Dropout","dropout",{"rate":0.5}],["Dense","dense",{"units":10,'
    b'"activation":"softmax","channels":64}]],0,5],null]["sequential",[true,[["Input","input_layer",'
)


def encode_header(
    name: str, graph: Graph, resize: int | str | None, old: Graph | None = None
) -> bytes:
    """A header; in an update from an `old` graph its nodes are named, not written again."""
    fields = listed(graph)
    if old is not None:
        fields[1] = _without_old_nodes(fields[1], listed(old)[1])
    return container.deflate_json([name, fields, resize], DICTIONARY)


def decode_header(data: Bytes, old: Graph | None = None) -> tuple[str, Graph, Any]:
    """The model's name, its graph, and how pictures are framed, the last unchecked.

    Args:
        data: a header, as `encode_header` makes it.
        old: the graph from which an update leads to this one.

    Raises:
        InputError: the bytes are no header.
    """
    text = container.inflate(data, MAX_HEADER, "header", DICTIONARY)
    fields = container.json_list(text, "header")
    if len(fields) != 3:
        raise SqzError(f"the header must have 3 fields. Received: {len(fields)}")
    graph = fields[1]
    if old is not None and isinstance(graph, list) and len(graph) == 4:
        graph = [graph[0], _with_old_nodes(graph[1], listed(old)[1]), *graph[2:]]
    return fields[0], _graph_of(graph, 1), fields[2]


def _without_old_nodes(nodes: list[Any], old: list[Any]) -> list[Any]:
    """Nodes with `[first, count]` in place of those of an old graph, which keep their order."""
    places: dict[str, list[int]] = {}
    for place, node in enumerate(old):
        places.setdefault(json.dumps(node), []).append(place)
    result: list[Any] = []
    run: list[int] | None = None
    end = 0
    for node in nodes:
        later = [place for place in places.get(json.dumps(node), ()) if place >= end]
        if not later:
            result.append(node)
            run = None
            continue
        if run is None or later[0] != end:
            run = [later[0], 0]
            result.append(run)
        run[1] += 1
        end = later[0] + 1
    return result


def _with_old_nodes(items: Any, old: list[Any]) -> Any:
    """The inverse of `_without_old_nodes`. No old node comes twice: what is read stays as small."""
    if not isinstance(items, list):
        return items
    nodes: list[Any] = []
    end = 0
    for item in items:
        if not (isinstance(item, list) and len(item) == 2 and all(map(is_int, item))):
            nodes.append(item)
            continue
        first, count = item
        if not end <= first < first + count <= len(old):
            raise SqzError(
                f"nodes of the old graph must be from {end} to {len(old)}. "
                f"Received: {count} from {first}"
            )
        end = first + count
        nodes += old[first:end]
    return nodes


def listed(graph: Graph) -> list[Any]:
    """A graph as JSON has it."""
    nodes, tensors = [], 0
    for node in graph.nodes:
        nodes.append(_listed_node(node, tensors))
        called = node if node.again is None else graph.nodes[node.again]
        tensors += len(as_tuple(called.graph.outputs)) if called.graph else 1
    return [graph.is_sequential, nodes, _numbers(graph.inputs), _numbers(graph.outputs)]


def _numbers(ends: int | tuple[int, ...]) -> int | list[int]:
    return list(ends) if isinstance(ends, tuple) else ends


def _listed_node(node: Node, tensors: int) -> list[Any]:
    """Without what stands at the end and goes without saying."""
    fields: list[Any]
    usual = _usual_inputs(node.kind, tensors)
    inputs = None if node.inputs == usual else list(node.inputs)
    if node.kind is None:
        fields = [node.again, inputs]
    else:
        fields = [node.kind, node.name, _listed_arguments(node), inputs]
    while fields[-1] is None:
        fields.pop()
    return fields


def _listed_arguments(node: Node) -> Any:
    if node.graph is not None:
        return listed(node.graph)
    if node.kind == INPUT:
        without = node.arguments["dtype"] == "float32"
        return {"shape": node.arguments["shape"]} if without else dict(node.arguments)
    assert node.kind is not None
    return without_defaults(KINDS[node.kind], node.arguments) or None


def _usual_inputs(kind: str | None, tensors: int) -> tuple[int, ...]:
    """What a node takes that does not say so: the tensor before it."""
    return () if kind == INPUT or not tensors else (tensors - 1,)


def _graph_of(fields: Any, depth: int) -> Graph:
    if depth > MAX_DEPTH:
        raise SqzError(f"models may lie {MAX_DEPTH} deep within each other")
    if not (isinstance(fields, list) and len(fields) == 4 and isinstance(fields[1], list)):
        raise SqzError("a graph must be a list of 4 fields, its nodes the second")
    is_sequential, listed_nodes, inputs, outputs = fields
    if type(is_sequential) is not bool:
        raise SqzError("a graph must say with true or false whether it is a sequence")
    if len(listed_nodes) > MAX_NODES:
        raise SqzError(f"a graph has at most {MAX_NODES} nodes. Received: {len(listed_nodes)}")
    nodes: list[Node] = []
    tensors = 0
    for number, item in enumerate(listed_nodes):
        node = _node_of(item, number, tensors, depth)
        nodes.append(node)
        graph = node.graph
        if is_int(node.again, 0, number - 1):
            graph = nodes[node.again].graph
        tensors += len(as_tuple(graph.outputs)) if graph else 1
    return Graph(tuple(nodes), _tupled(inputs), _tupled(outputs), is_sequential)


def _node_of(fields: Any, number: int, tensors: int, depth: int) -> Node:
    if not isinstance(fields, list) or not fields:
        raise SqzError(f"node {number} must be a list with its kind in front")
    kind = None if is_int(fields[0]) else fields[0]
    names = ("again", "inputs") if kind is None else _NODE
    if len(fields) > len(names):
        raise SqzError(f"node {number} must have at most {len(names)} fields")
    found: dict[str, Any] = {**dict.fromkeys(names), **dict(zip(names, fields, strict=False))}
    inputs = found["inputs"]
    if inputs is not None and not isinstance(inputs, list):
        raise SqzError(f"node {number} must have a list of inputs")
    taken = _usual_inputs(kind, tensors) if inputs is None else tuple(inputs)
    if kind is None:
        return Node(None, inputs=taken, again=fields[0])
    check_name(found["name"])
    arguments, graph = _arguments_of(kind, found["name"], found["arguments"], depth)
    return Node(kind, found["name"], arguments, taken, graph)


_NODE = ("kind", "name", "arguments", "inputs")


def _arguments_of(
    kind: Any, name: str, given: Any, depth: int
) -> tuple[Mapping[str, Any], Graph | None]:
    if kind == MODEL:
        return {}, _graph_of(given, depth + 1)
    where = f"layer {name} ({kind!r:.80})"
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise SqzError(f"{where} must have its arguments by name")
    if kind == INPUT:
        return input_arguments(given, where), None
    if not isinstance(kind, str) or kind not in KINDS:
        raise SqzError(f"{where} must be of a kind that a .sqz file of version 2 holds")
    return checked_arguments(KINDS[kind], given, where), None


def _tupled(ends: Any) -> Any:
    return tuple(ends) if isinstance(ends, list) else ends
