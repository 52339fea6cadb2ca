"""What the commands write on standard output: tables and lines for people, JSON for programs."""

import json
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


def thousands(number):
    return f"{number:,}"
