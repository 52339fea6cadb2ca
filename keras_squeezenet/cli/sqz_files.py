"""The commands about .sqz files as they are: decompress, diff, patch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_squeezenet.cli.options import (
    AsJson,
    check_output,
    save_keras,
)
from keras_squeezenet.printing import print_json, printable, thousands


def decompress(
    sqz: Annotated[Path, typer.Argument(metavar="IN.sqz", help="The file to read.")],
    out: Annotated[
        Path,
        typer.Argument(
            help="The .keras file to write. Class names go to a class_names.json beside it."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Turn a .sqz file into a .keras file of the same weights."""
    check_output(out, (".keras",), sqz)
    from keras_squeezenet.sqz.files import read_network

    network = read_network(sqz)
    from keras_squeezenet.compression.saving import load_compressed

    model = load_compressed(sqz)
    save_keras(model, out, network.class_names)
    # Of a model of several outputs there is no such number.
    shape = model.output_shape
    classes = shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None
    if as_json:
        print_json(
            {
                "path": str(out),
                "bytes": out.stat().st_size,
                "classes": classes,
                "class_names": network.class_names and list(network.class_names),
                "resize": network.resize,
            }
        )
        return
    of_classes = f", {classes} classes" if classes else ""
    print(f"{printable(out)}: {thousands(out.stat().st_size)} bytes{of_classes}")
    if network.resize:
        print(f"what the file cannot say: pictures are framed with --resize {network.resize}")


def diff(
    old: Annotated[Path, typer.Argument(help="The .sqz file that is to be updated.")],
    new: Annotated[Path, typer.Argument(help="The .sqz file that it is to become.")],
    out: Annotated[Path, typer.Argument(help="The .sqzdelta file to write.")],
    as_json: AsJson = False,
) -> None:
    """Write the update that turns one .sqz file into another: what goes over the air.

    It fits every file of the old network, whichever version of this package wrote it.
    """
    check_output(out, (".sqzdelta",), old, new)
    from keras_squeezenet.sqz.files import write_update

    size, whole = write_update(old, new, out), new.stat().st_size
    if as_json:
        print_json({"path": str(out), "bytes": size, "new_bytes": whole})
    else:
        print(f"{printable(out)}: {thousands(size)} bytes instead of {thousands(whole)}")


def patch(
    old: Annotated[Path, typer.Argument(help="The .sqz file that is to be updated.")],
    delta: Annotated[Path, typer.Argument(help="The .sqzdelta file.")],
    out: Annotated[Path, typer.Argument(help="The .sqz file to write.")],
    as_json: AsJson = False,
) -> None:
    """Apply an update to a .sqz file of the network that it was made for."""
    check_output(out, (".sqz",), old, delta)
    from keras_squeezenet.sqz.files import apply_update

    size = apply_update(old, delta, out)
    if as_json:
        print_json({"path": str(out), "bytes": size})
    else:
        print(f"{printable(out)}: {thousands(size)} bytes")
