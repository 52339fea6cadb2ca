"""A LiteRT file as C source, for programs on microcontrollers that have no files.

#include "digits.h"

static uint8_t arena[DIGITS_ARENA_BYTES] __attribute__((aligned(16)));
tflite::MicroInterpreter interpreter(
    tflite::GetModel(digits_data), resolver, arena, sizeof(arena));
"""

import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_squeezenet._version import __version__
from keras_squeezenet.errors import InputError
from keras_squeezenet.files import replacing
from keras_squeezenet.litert.model import LiteRTModel
from keras_squeezenet.litert.tensor_arena import TensorArena, estimate_arena
from keras_squeezenet.printing import printable

SOURCE_SUFFIXES = (".c", ".cc", ".cpp")

_BYTES_PER_LINE = 12

_HEADER = """\
/* {title}

   {facts}
*/
#ifndef {macro}_H
#define {macro}_H

/* Enough for LiteRT for Microcontrollers; {activations:,} of it are activations. */
#define {macro}_ARENA_BYTES {arena}
{classes}
#ifdef __cplusplus
extern "C" {{
#endif

/* The model, a flatbuffer, aligned to 16 bytes. */
extern const unsigned char {name}_data[];
extern const unsigned int {name}_size;
{names}
#ifdef __cplusplus
}}
#endif

#endif
"""

_SOURCE = """\
/* {title} */
#include "{header}"

#if defined(__cplusplus)
#define {macro}_ALIGNED alignas(16)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define {macro}_ALIGNED _Alignas(16)
#else
#define {macro}_ALIGNED __attribute__((aligned(16)))
#endif

{macro}_ALIGNED const unsigned char {name}_data[] = {{
{bytes}
}};
const unsigned int {name}_size = {size};
{names}"""


@dataclass(frozen=True)
class CArray:
    """What was written.

    Attributes:
        source, header: the files.
        name: what the names in them begin with: `NAME_data`, `NAME_size`, `NAME_class_names`.
        bytes: of the model in flash memory. Less than the LiteRT file's, which carries class names
            and a description behind the model.
        arena: the `TensorArena`, of the model in RAM.
        class_names: those in the files, or None.
    """

    source: Path
    header: Path
    name: str
    bytes: int
    arena: TensorArena
    class_names: tuple[str, ...] | None


def write_c_array(
    tflite_path: str | os.PathLike, out_path: str | os.PathLike, *, name: str | None = None
) -> CArray:
    """Write a LiteRT file as C (or C++) source, and a header with what a program needs to know.

    Args:
        tflite_path: the file, as `export_litert` writes it; "int8" with input and output of "int8"
            is what microcontrollers are good at.
        out_path: the source to write, ending in .c, .cc or .cpp; the header goes beside it.
        name: what the names in C begin with. Default: made of the name of `out_path`.

    Returns:
        What was written.

    Raises:
        InputError: `out_path` ends otherwise, `name` is none in C, or the file is no LiteRT model
            that a microcontroller runs.
        OSError: a file cannot be read or written.
    """
    tflite_path, source = Path(tflite_path), Path(out_path)
    if source.suffix not in SOURCE_SUFFIXES:
        raise InputError(
            f"`out_path` must end in {', '.join(SOURCE_SUFFIXES)}. Received: out_path={source}"
        )
    name = _identifier(source.stem) if name is None else name
    # Every name gets an ending, so that none is a keyword.
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        raise InputError(
            f"`name` must be letters, digits and _, a letter first. Received: name={name!r}"
        )
    header = source.with_suffix(".h")
    arena = estimate_arena(tflite_path)
    model = LiteRTModel(tflite_path)
    content = _without_archive(tflite_path)

    title = f"Made of {tflite_path.name} by keras_squeezenet {__version__}. Do not edit."
    common = {"title": _comment(title), "name": name, "macro": name.upper()}
    declared, defined = _class_names(name, model.class_names)
    header_text = _HEADER.format(
        facts=_comment(_facts(model, len(content))),
        classes="" if model.class_names is None else _classes(name, len(model.class_names)),
        arena=arena.bytes,
        activations=arena.activations,
        names=declared,
        **common,
    )
    source_text = _SOURCE.format(
        header=header.name, bytes=_hexadecimal(content), size=len(content), names=defined, **common
    )
    for path, text in ((header, header_text), (source, source_text)):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return CArray(source, header, name, len(content), arena, model.class_names)


def _identifier(stem: str) -> str:
    """A name in C of a file's; what begins with a digit or _ could be none, or the compiler's."""
    name = re.sub("[^A-Za-z0-9_]", "_", stem)
    return name if name[:1].isalpha() else f"model{name if name[:1] == '_' else f'_{name}'}"


def _without_archive(path: Path) -> bytes:
    """The model alone, without the zip archive that may stand behind it."""
    content = path.read_bytes()
    if not zipfile.is_zipfile(path):
        return content
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        content = content[: min((member.header_offset for member in members), default=None)]
        # An archive may say that it begins within the model.
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / path.name
            model.write_bytes(content)
            LiteRTModel(model)
    except (zipfile.BadZipFile, ValueError) as error:
        raise InputError(f"{path}: the archive behind the model cannot be read") from error
    return content


def _facts(model: LiteRTModel, size: int) -> str:
    lines = [f"{size:,} bytes of model."]
    for title, tensor in (("Input", model.input), ("Output", model.output)):
        shape = ", ".join("any" if side is None else str(side) for side in tensor.shape)
        line = f"{title}: {tensor.dtype} [{shape}]"
        if tensor.scale is not None:
            line += f", value = {tensor.scale:.9g} * (code - {tensor.zero_point})"
        lines.append(f"{line}.")
    return "\n   ".join(lines)


def _classes(name: str, count: int) -> str:
    return f"#define {name.upper()}_CLASSES {count}\n"


def _class_names(name: str, class_names: Sequence[str] | None) -> tuple[str, str]:
    """(declaration, definition) of the array of names."""
    if class_names is None:
        return "", ""
    array = f"const char *const {name}_class_names[{len(class_names)}]"
    strings = ",\n".join(f"    {_string(class_name)}" for class_name in class_names)
    return (
        f"/* In the order of the outputs, UTF-8. */\nextern {array};\n",
        f"{array} = {{\n{strings},\n}};\n",
    )


def _string(text: str) -> str:
    """A C string literal: octal escapes end after three digits, whatever follows them."""
    return '"' + "".join(_character(byte) for byte in text.encode()) + '"'


def _character(byte: int) -> str:
    # "??" begins a trigraph in older C.
    plain = 0x20 <= byte < 0x7F and chr(byte) not in '"\\?'
    return chr(byte) if plain else f"\\{byte:03o}"


def _comment(text: str) -> str:
    """Text that neither ends a comment nor seems to begin one."""
    lines = (printable(line) if line.strip() else line for line in text.split("\n"))
    return "\n".join(lines).replace("*/", "* /").replace("/*", "/ *")


def _hexadecimal(content: bytes) -> str:
    lines = (
        content[start : start + _BYTES_PER_LINE]
        for start in range(0, len(content), _BYTES_PER_LINE)
    )
    return "\n".join("    " + " ".join(f"0x{byte:02x}," for byte in line) for line in lines)
