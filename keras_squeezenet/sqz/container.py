"""The frame of a .sqz file: magic, version, mode, sections, checksum; and its header.

`docs/sqz.md` says the same field by field.
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from math import prod
from typing import Any

from keras_squeezenet.checks import is_int
from keras_squeezenet.errors import one_line
from keras_squeezenet.network.architecture import Architecture, FireFilters
from keras_squeezenet.sqz.network import CompressedNetwork
from keras_squeezenet.sqz.reading import Bytes, Reader, SqzError, varint

MAGIC = b"\x89SQZ"
UPDATE_MAGIC = b"\x89SQZDELTA"
VERSION = 1
MODEL_VERSION = 2  # of files of any model; our own SqueezeNets stay in version 1
UPDATE_VERSION = 2
MODEL_UPDATE_VERSION = 3  # of updates that have to do with files of any model
MODES = ("faithful", "best")
CHECKSUM_BYTES = 4

MAX_HEADER = 2**16  # bytes, inflated
MAX_CLASS_NAMES = 2**22  # bytes, inflated
MAX_FIRES = 256
MAX_WEIGHTS = 2**24
MAX_DIGITS = 10  # of an integer in JSON, with its sign
MAX_BIASES = 2**18
MAX_SIDE = 2**16  # of an input, of pictures and of padding, in pixels

# Of an `Architecture` and of one of its `FireFilters` in a file; what came later is optional.
OLDEST_FIELDS = 7
OLDEST_FIRE_FIELDS = 3

# What most headers are made of: raw deflate takes it as having come before.
DICTIONARY = (
    b'"torch","tf",null,"stretch",256,["squeezenet_custom",96,7,[[16,64,64,"simple"],[1,4,8],'
    b'227,1],10,227,"caffe","relu","softmax",null,0.5]]["squeezenet1_1",64,3,[[16,64,64],'
    b"[16,64,64],[32,128,128],[32,128,128],[48,192,192],[48,192,192],[64,256,256],[64,256,256]],"
    b'[1,3,5],224,0],1000,224,null,"relu","softmax",null,0.5]'
)


@dataclass(frozen=True)
class Header:
    """All of a `CompressedNetwork` but its class names and its arrays, in the file's order."""

    architecture: Architecture
    classes: int
    input_size: int
    preprocessing: str | None
    last_activation: str | None
    classifier_activation: str | None
    resize: int | str | None
    dropout_rate: float

    def __post_init__(self) -> None:
        shapes = self.architecture.kernel_shapes(self.classes).values()
        for name, value, limit in (
            ("fires", len(self.architecture.fires), MAX_FIRES),
            ("weights", sum(map(prod, shapes)), MAX_WEIGHTS),
            ("biases", sum(shape[-1] for shape in shapes), MAX_BIASES),
            ("pixels on a side", self.input_size, MAX_SIDE),
            ("pixels on the architecture's side", self.architecture.input_size, MAX_SIDE),
            ("pixels of padding", self.architecture.last_conv_padding, MAX_SIDE),
            ("pixels to resize to", self.resize if isinstance(self.resize, int) else 0, MAX_SIDE),
        ):
            if value > limit:
                raise SqzError(f"a .sqz file holds at most {limit} {name}. Received: {value}")

    @classmethod
    def of(cls, network: CompressedNetwork) -> "Header":
        return cls(*(getattr(network, name) for name in cls.__dataclass_fields__))

    def encode(self) -> bytes:
        return deflate_json(header_list(self), DICTIONARY)

    @classmethod
    def decode(cls, data: Bytes) -> "Header":
        found = json_list(inflate(data, MAX_HEADER, "header", DICTIONARY), "header")
        if len(found) != len(cls.__dataclass_fields__):
            raise SqzError(f"the header must have 8 fields. Received: {len(found)}")
        if not is_int(found[1], 1, MAX_WEIGHTS):
            raise SqzError("the header must have a number of classes")
        if not is_int(found[2]):
            raise SqzError("the header must have an input size")
        return cls(_architecture(found[0]), *found[1:])


def encode_class_names(names: Iterable[str] | None) -> bytes:
    return b"" if names is None else deflate_json(list(names), b"")


def decode_class_names(data: Bytes) -> tuple[str, ...] | None:
    if not data:
        return None
    names = json_list(inflate(data, MAX_CLASS_NAMES, "class names", b""), "class names")
    return tuple(names)


def write_file(mode: str, sections: Sequence[bytes], version: int = VERSION) -> bytes:
    return with_checksum(MAGIC + bytes([version, MODES.index(mode)]) + joined(sections))


def version_of(data: Bytes) -> int | None:
    """What the bytes of a .sqz file say of their version; None of what is too short, or no file."""
    start = bytes(data[: len(MAGIC) + 1])
    return start[-1] if start[:-1] == MAGIC else None


def mode_of(data: Bytes) -> str:
    """The mode of the bytes of a .sqz file, which were read before."""
    return MODES[data[len(MAGIC) + 1]]


def joined(sections: Sequence[bytes]) -> bytes:
    """The lengths of all sections, then the sections."""
    return b"".join([*(varint(len(section)) for section in sections), *sections])


def with_checksum(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def checked(data: Bytes, magic: bytes, kind: str, versions: Sequence[int]) -> tuple[int, Reader]:
    """The version, and a reader of what stands between it and the checksum, all of them checked."""
    data = memoryview(data)
    start = bytes(data[: len(UPDATE_MAGIC)])
    if not start.startswith(magic):
        raise SqzError(f"a {kind} starts with {magic!r}. Received: {start[: len(magic)]!r}")
    if start == UPDATE_MAGIC != magic:
        raise SqzError(f"expected a {kind}. Received: an update from one to another")
    if len(data) < len(magic) + 1 + CHECKSUM_BYTES:
        raise SqzError(f"the {kind} ends early. Received: {len(data)} bytes")
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if zlib.crc32(body) != int.from_bytes(checksum, "little"):
        raise SqzError(f"the {kind} is damaged: its checksum is wrong")
    reader = Reader(body, kind)
    reader.take(len(magic))
    version = reader.take(1)[0]
    if version not in versions:
        raise SqzError(
            f"the {kind} must be of version {' or '.join(map(str, versions))}. "
            f"Received: version {version}"
        )
    return version, reader


def read_file(
    data: Bytes, section_names: Mapping[str, Sequence[str]], version: int = VERSION
) -> tuple[str, dict[str, memoryview]]:
    """The mode and the sections by name; `section_names` has the names by mode."""
    _, reader = checked(data, MAGIC, ".sqz file", (version,))
    mode = MODES[reader.varint(len(MODES) - 1)]
    return mode, reader.sections(section_names[mode])


def header_list(header: Header | CompressedNetwork) -> list[Any]:
    """All of a `Header`, or of a network that has the same attributes, as JSON has it."""
    architecture, *others = (getattr(header, name) for name in Header.__dataclass_fields__)
    return [_listed(architecture), *others]


def _listed(value: Any) -> Any:
    """A data class of the architecture as the list of its fields, in their order.

    Fields at the end that have their default are left out, but for those that always were there: a
    field that is added later changes no byte of the networks that do without it.
    """
    if isinstance(value, tuple):
        return [_listed(item) for item in value]
    if not is_dataclass(value):
        return value
    own = fields(value)
    count = len(own)
    while count > _least(value) and _has_default(value, own[count - 1]):
        count -= 1
    return [_listed(getattr(value, field.name)) for field in own[:count]]


def _least(value: Any) -> int:
    return OLDEST_FIRE_FIELDS if isinstance(value, FireFilters) else OLDEST_FIELDS


def _has_default(value: Any, field: Field) -> bool:
    return getattr(value, field.name) == field.default


def _architecture(listed: Any) -> Architecture:
    names = [field.name for field in fields(Architecture)]
    try:
        if not OLDEST_FIELDS <= len(listed) <= len(names):
            raise SqzError("the architecture in the header has another number of fields")
        tuples = (tuple(item) if isinstance(item, list) else item for item in listed)
        values: dict[str, Any] = dict(zip(names, tuples, strict=False))
        if not isinstance(values["name"], str) or len(values["fires"]) > MAX_FIRES:
            raise SqzError("the architecture in the header is none that a .sqz file holds")
        values["fires"] = tuple(FireFilters(*fire) for fire in values["fires"])
        return Architecture(**values)
    except (TypeError, ValueError) as error:
        raise SqzError(f"the header has no architecture: {one_line(error, 200)}") from error


def json_list(data: bytes, what: str) -> list[Any]:
    try:
        fields = json.loads(data.decode(errors="surrogatepass"), parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise SqzError(f"the {what} must be JSON: {one_line(error, 200)}") from None
    if not isinstance(fields, list):
        raise SqzError(f"the {what} must be a JSON list. Received: {type(fields).__name__}")
    return fields


def _integer(digits: str) -> int:
    # No number in a header is larger; thousands of digits would be slow, or an error, elsewhere.
    if len(digits) > MAX_DIGITS or int(digits) > MAX_WEIGHTS:
        raise SqzError(f"a number must be at most {MAX_WEIGHTS}. Received: {digits[:20]}")
    return int(digits)


def deflate_json(fields: list[Any], dictionary: bytes) -> bytes:
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return compressor.compress(text.encode(errors="surrogatepass")) + compressor.flush()


def inflate(data: Bytes, maximum: int, what: str, dictionary: bytes) -> bytes:
    inflater = zlib.decompressobj(-15, dictionary)
    try:
        inflated = inflater.decompress(data, maximum)
    except zlib.error as error:
        raise SqzError(f"the {what} cannot be inflated: {one_line(error, 200)}") from None
    if not inflater.eof or inflater.unused_data:
        raise SqzError(f"the {what} must be one deflated stream of at most {maximum} bytes")
    return inflated
