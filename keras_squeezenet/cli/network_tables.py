"""Tables of what networks cost, on the screen and in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_squeezenet.numerals import byte_size, percent, scaled
from keras_squeezenet.printing import markdown_table, print_table, printable, thousands

if TYPE_CHECKING:
    from keras_squeezenet.litert.latency import Latency
    from keras_squeezenet.network.profile import LayerProfile, ModelProfile
    from keras_squeezenet.training.network_comparison import ComparedNetwork

# As many characters as the widest table takes; in a file or a pipe there is no edge.
_UNBOUNDED = 250
_NOT_KNOWN = "not known"


def print_profile(profile: ModelProfile) -> None:
    from keras_squeezenet.network.profile import WIDTHS

    columns = ("layer", "output", "parameters", "share", "mult-adds", "share", "output", "in use")
    rows = [
        (
            layer.name,
            shape_text(layer.output_shape),
            thousands(layer.parameters),
            percent(layer.parameters / max(1, profile.parameters)),
            *_multiply_adds(layer, profile),
            byte_size(layer.activation_bytes),
            byte_size(layer.live_bytes),
            *(byte_size(layer.weight_bytes(bits)) for bits in WIDTHS),
        )
        for layer in profile.layers
    ]
    total = (
        *("total", "", thousands(profile.parameters), "", thousands(profile.multiply_adds), ""),
        *(byte_size(profile.activation_bytes), byte_size(profile.peak_activation_bytes)),
        *(byte_size(profile.weight_bytes_at(bits)) for bits in WIDTHS),
    )
    widths = [f"{bits} bits" for bits in WIDTHS]
    if sys.stdout.isatty():
        count = len(columns)  # bytes of weights are left to the lines below
        print_table(columns, [row[:count] for row in rows], total[:count])
    else:
        print_table((*columns, *widths), rows, total, width=_UNBOUNDED)
    for line in totals(profile):
        print(printable(line))


def totals(profile: ModelProfile) -> list[str]:
    """What the network as a whole costs, in lines."""
    from keras_squeezenet.network.profile import WIDTHS

    shapes = ", ".join(map(shape_text, profile.input_shapes))
    sizes = ", ".join(f"{byte_size(profile.weight_bytes_at(bits))} at {bits}" for bits in WIDTHS)
    peak, in_place = profile.peak_activation_bytes, profile.peak_activation_bytes_in_place
    rows = [row for row in profile.layers if row.live_bytes == peak][:1]
    lines = [
        f"{profile.name}: input {shapes}; {thousands(profile.parameters)} parameters, "
        f"{thousands(profile.trainable_parameters)} of them trainable; "
        f"{thousands(profile.multiply_adds)} multiply-adds for one image",
        f"weights: {sizes} bits each",
        f"memory in use for one image, float32: at most {byte_size(peak)}"
        + "".join(f", in {row.name}" for row in rows)
        + f"; {byte_size(in_place)} where layers work in place",
    ]
    if profile.not_counted:
        names = ", ".join(profile.not_counted)
        lines.append(f"multiply-adds that are not known, and not counted: {names}")
    return lines


def profile_in_markdown(profile: ModelProfile) -> str:
    """The table with exact numbers, and the totals below."""
    from keras_squeezenet.network.profile import WIDTHS

    columns = (
        *("layer", "class", "output", "parameters", "share", "multiply-adds", "share"),
        *("output bytes", "bytes in use", *(f"weights, {bits} bits" for bits in WIDTHS)),
    )
    rows = [
        (
            layer.name,
            layer.kind,
            shape_text(layer.output_shape),
            thousands(layer.parameters),
            percent(layer.parameters / max(1, profile.parameters)),
            *_multiply_adds(layer, profile),
            thousands(layer.activation_bytes),
            thousands(layer.live_bytes),
            *(thousands(layer.weight_bytes(bits)) for bits in WIDTHS),
        )
        for layer in profile.layers
    ]
    return "\n".join([markdown_table(columns, rows), "", *(f"- {x}" for x in totals(profile))])


def profile_rows(name: str, profile: ModelProfile) -> list[dict[str, Any]]:
    """For a file of lines and columns: a row for each layer."""
    rows = []
    for layer in profile.to_dict()["layers"]:
        sizes = layer.pop("weight_bytes_at")
        layer["output_shape"] = shape_text(layer["output_shape"])
        named = {f"weight_bytes_at_{bits}_bits": size for bits, size in sizes.items()}
        rows.append({"network": name, **layer, **named})
    return rows


def _multiply_adds(layer: LayerProfile, profile: ModelProfile) -> tuple[str, str]:
    if layer.multiply_adds is None:
        return _NOT_KNOWN, ""
    share = layer.multiply_adds / max(1, profile.multiply_adds)
    return thousands(layer.multiply_adds), percent(share)


def shape_text(shape: Sequence[Any]) -> str:
    """55×55×96; of several outputs one after the other."""
    if any(isinstance(side, tuple | list) for side in shape):
        return ", ".join(map(shape_text, shape))
    return "×".join(map(str, shape)) or "1"


def print_comparison(
    networks: Sequence[ComparedNetwork], memory: int | None, *, markdown: bool
) -> None:
    """Networks side by side, a line each, and below it where accuracies come from."""
    from keras_squeezenet.litert.latency import Latency

    timed = any(isinstance(network.latency, Latency) for network in networks)
    columns = ["network", "parameters", "mult-adds", "weights", "gradient", "peak memory"]
    if memory is not None:
        columns += [f"weights in {byte_size(memory)}", "and activations"]
    if timed:
        columns.append("latency")
    columns.append("top-1")
    rows = [_compared(network, memory, timed) for network in networks]
    if markdown:
        print(markdown_table(columns, rows))
        print()
    else:
        print_table(columns, rows, width=None if sys.stdout.isatty() else _UNBOUNDED)
    for line in _notes(networks):
        print(f"- {printable(line)}" if markdown else printable(line))


def _compared(network: ComparedNetwork, memory: int | None, timed: bool) -> tuple[str, ...]:
    from keras_squeezenet.litert.latency import Latency

    profile = network.profile
    cells = [
        network.name,
        thousands(profile.parameters),
        scaled(profile.multiply_adds, ("", "k", "M", "G")) + ("*" if profile.not_counted else ""),
        byte_size(profile.weight_bytes),
        byte_size(network.gradient_bytes),
        byte_size(profile.peak_activation_bytes_in_place),
    ]
    if memory is not None:
        fits = network.fits(memory)
        cells.append(_widest([fit.bits for fit in fits if fit.weights]))
        cells.append(_widest([fit.bits for fit in fits if fit.with_activations]))
    if timed:
        spent = network.latency
        cells.append(_latency(spent) if isinstance(spent, Latency) else "")
    cells.append(f"{network.accuracy.top1:.4f}" if network.accuracy else "")
    return tuple(cells)


def _latency(spent: Latency) -> str:
    return f"{spent.median:.1f} ms ({spent.low:.1f}–{spent.high:.1f})"


def _widest(bits: Sequence[int]) -> str:
    return f"at {bits[0]} bits" if bits else "no"


def _notes(networks: Sequence[ComparedNetwork]) -> list[str]:
    from keras_squeezenet.litert.latency import Latency

    lines = [
        "for one image, in float32: weights; gradient, what one exchange takes into a rank; peak "
        "memory of activations, layers in place"
    ]
    timed = [each.latency for each in networks if isinstance(each.latency, Latency)]
    if timed:
        lines.append(
            f"latency: float32 LiteRT file, one image, {timed[0].threads} threads on this machine, "
            f"median and quartiles of {timed[0].calls} calls in turns"
        )
    for network in networks:
        if isinstance(network.latency, str):
            lines.append(f"no latency of {network.name}: {network.latency}")
        if network.profile.not_counted:
            names = ", ".join(network.profile.not_counted)
            lines.append(f"* not counted of {network.name}: {names}")
        if network.accuracy:
            lines.append(f"top-1 of {network.name}: {network.accuracy.source}")
    return lines
