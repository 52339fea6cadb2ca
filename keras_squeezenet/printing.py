"""What commands and scripts write: tables and lines for people, JSON for programs."""

import io
import json
import logging
import sys
import unicodedata

from keras_squeezenet.numerals import percent


def printable(text):
    """One line without control characters, which could break it, turn it or steer a terminal.

    Names of files and classes come from anywhere, and a file name need not be valid Unicode.
    """
    return "".join(_printable_character(character) for character in str(text))


def _printable_character(character):
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) == "Cf" else "\ufffd"


def silent(line):
    """Takes a line of progress where nobody wants to read any."""


def write_anything():
    """Have standard output and error write a question mark for what their encoding lacks.

    In a pipe on Windows that is one of 256 characters, and class names come from anywhere.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class LineFormatter(logging.Formatter):
    """Log records of a line each, whatever names are in them."""

    def formatMessage(self, record):
        return printable(super().formatMessage(record))


def log_lines():
    """Show warnings of all loggers on standard error, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler])


def print_json(value):
    # Escaped: file names on Linux need not be valid Unicode, and JSON has to be.
    print(json.dumps(value, allow_nan=False))


def print_table(columns, rows, total=None):
    """A rich table; the first column is text, the others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_footer=total is not None)
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if number else "left",
            footer=total[number] if total else "",
            overflow="fold" if number == 0 else "ellipsis",
        )
    for row in rows:
        table.add_row(*map(printable, row))
    # A class named "[red]" is no markup.
    Console(markup=False, emoji=False, highlight=False).print(table)


def print_profile(profile):
    columns = ("layer", "output", "parameters", "multiply-adds", "activation bytes")
    rows = [
        (
            layer.name,
            "×".join(map(str, layer.output_shape)),
            thousands(layer.parameters),
            thousands(layer.multiply_adds),
            thousands(layer.activation_bytes),
        )
        for layer in profile.layers
    ]
    total = (
        "total",
        "",
        thousands(profile.parameters),
        thousands(profile.multiply_adds),
        thousands(profile.activation_bytes),
    )
    print_table(columns, rows, total)


def print_evaluation(model, size, measured, broken):
    print(f"{printable(model)}: {thousands(size)} bytes, {measured.count} images")
    print(f"top-1 {measured.top1:.4f} ± {measured.top1_standard_error:.4f}   ", end="")
    print(f"top-5 {measured.top5:.4f}   loss {measured.loss:.4f}")
    print_table(
        ("class", "accuracy", "images"),
        [
            (name, "" if accuracy is None else f"{accuracy:.3f}", str(count))
            for name, accuracy, count in zip(
                measured.class_names,
                measured.per_class_accuracy,
                measured.per_class_count,
                strict=True,
            )
        ],
    )
    for file, reason in broken:
        print(printable(f"left out: {file}: {reason}"))


def print_predictions(file, predictions):
    print(printable(file))
    for prediction in predictions:
        print(f"{percent(prediction.probability):>9}  {printable(prediction.name)}")


def print_files(rows):
    print_table(
        ("file", "bytes", "top-1"),
        [(row["name"], thousands(row["bytes"]), f"{row['top1']:.4f}") for row in rows],
    )


def print_exported(result, model, images):
    """An `ExportResult`, and with which model and on what it was compared."""
    print(
        f"{printable(result.path)}: {thousands(result.bytes)} bytes; on {result.images_checked} "
        f"{images} the largest difference from {printable(model)} is {result.max_difference:.2g} "
        f"and {result.decisions_equal:.1%} of the decisions are equal"
    )
    _print_warning(result.warning)


def _print_warning(warning):
    if warning:
        print(f"warning: {printable(warning)}")


def print_arena(written):
    """What a `CArray` takes of a microcontroller's memory."""
    print(
        f"{printable(written.header)}: a tensor arena of {thousands(written.arena.bytes)} bytes, "
        f"{thousands(written.arena.activations)} of them activations"
    )


def print_compressed(measured):
    """What `compress` measured on the file that it wrote."""
    print(
        f"{printable(measured['path'])}: {thousands(measured['bytes'])} bytes, "
        f"{measured['times_smaller']:.1f} times smaller than the float32 weights"
    )
    if measured["weights_equal"]:
        print("all weights are those of the model")
    if measured["images_judged"]:
        print(_judgement(measured))
    print_table(
        ("spent on", "bytes"),
        [(what, thousands(size)) for what, size in measured["bytes_spent"].items()],
    )


def _judgement(measured):
    images = f"of {measured['images_judged']} images it was not compressed with"
    equal = f"{measured['decisions_equal']:.1%} of the decisions are equal"
    if measured["top1_after"] is None:
        return f"{images}, {equal}"
    return (
        f"{images}, top-1 {measured['top1_before']:.4f} before and {measured['top1_after']:.4f} "
        f"after; {equal}"
    )


def print_retrained(measured):
    """What `prune`, `cluster` or `quantize` measured; see `LayerStatistics`."""
    print(f"{printable(measured['path'])}: {thousands(measured['bytes'])} bytes")
    print(
        f"top-1 {measured['before']:.4f} before and {measured['after']:.4f} after, "
        f"{measured['validation_images']} validation images"
    )
    _print_warning(measured.get("warning"))
    print_table(
        ("layer", "weights", "not 0", "distinct"),
        [
            (
                layer["name"],
                thousands(layer["weights"]),
                percent(layer["nonzero"] / layer["weights"]),
                thousands(layer["distinct"]),
            )
            for layer in measured["layers"]
        ],
    )


def thousands(number):
    return f"{number:,}"
