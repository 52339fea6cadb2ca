"""Zip archives of few, small entries, with what is declared of them checked before it is read."""

import io
import zipfile
from collections.abc import Container

from keras_squeezenet.network.weight_files.contents import WeightFileError

END_RECORD_BYTES = 22
DIRECTORY_SIGNATURE = b"PK\x01\x02"
CHANCE_SIGNATURES = 8  # four bytes of weights may happen to look like one


def open_archive(
    data: bytes | memoryview, max_entries: int, compression: Container[int]
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A `zipfile.ZipFile` on bytes, and its entries by name.

    Args:
        data: bytes-like.
        max_entries: how many entries the archive may have.
        compression: the methods that its entries may have, of `zipfile`'s constants.

    Raises:
        WeightFileError: it is no such archive.
    """
    # Before anything else, so that a file cut short costs nothing: the record that ends an archive
    # is at its end, where neither numpy nor PyTorch put a comment after it.
    end = bytes(data[-END_RECORD_BYTES:])
    if end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise WeightFileError("it does not end as a zip archive does; is it cut short?")
    data = bytes(data)
    # zipfile takes memory for every entry of the directory, however many were declared.
    if data.count(DIRECTORY_SIGNATURE) > max_entries + CHANCE_SIGNATURES:
        raise WeightFileError(f"expected a zip archive of at most {max_entries} entries")
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = {info.filename: info for info in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise WeightFileError("two entries of the archive have the same name")
    for name, info in entries.items():
        if info.flag_bits & 1:
            raise WeightFileError(f"the entry {name!r} is encrypted")
        if info.compress_type not in compression:
            raise WeightFileError(
                f"the entry {name!r} is compressed with method {info.compress_type}"
            )
    return archive, entries
