"""Updates: what turns one .sqz file into another, best one of about the same weights.

An update is bound to the networks, not to the bytes of their files: it fits every file of the old
network, and gives a file of the new one, whichever versions of the encoder wrote and write them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from keras_squeezenet.sqz import container, model_coding, model_delta, network_delta
from keras_squeezenet.sqz.coding import Contents
from keras_squeezenet.sqz.content import DIGEST_BYTES, digest
from keras_squeezenet.sqz.model import CompressedModel
from keras_squeezenet.sqz.reading import Bytes, Reader, SqzError
from keras_squeezenet.sqz.versions import is_of_a_model

KINDS = ("whole file", "changes")

# What updates are made of: a file of version 1 with what its sections say, or a model.
Old = Contents | CompressedModel


def diff(old: Bytes, new: Bytes) -> bytes:
    """The bytes of an update: `patch` makes of it, and of any file of the old network, the new one.

    Where the files have little in common, it holds the new one as it is.

    Raises:
        SqzError: one of them is no .sqz file.
    """
    before, after = _read(old), _read(new)
    digests = _hash_of_network(old, before) + _hash_of_network(new, after)
    body = None
    if isinstance(before, Contents) and isinstance(after, Contents):
        version = container.UPDATE_VERSION
        if before.shapes == after.shapes:
            body = network_delta.changes(before, after)
    else:
        version = container.MODEL_UPDATE_VERSION
        if isinstance(before, CompressedModel) and isinstance(after, CompressedModel):
            body = model_delta.changes(before, after, container.mode_of(new))
    updates = [_framed(version, "whole file", digests, bytes(new))]
    if body is not None:
        updates.append(_framed(version, "changes", digests, body))
    return min(updates, key=len)


def patch(old: Bytes, delta: Bytes) -> bytes:
    """A file of the new network.

    Args:
        old: bytes of a .sqz file of the network that the update was made for.
        delta: bytes of an update, from `diff`.

    Raises:
        SqzError: the update is damaged, or was made for another network.
    """
    version, reader = container.checked(
        delta, container.UPDATE_MAGIC, ".sqz update", tuple(VERSIONS)
    )
    kind = KINDS[reader.varint(len(KINDS) - 1)]
    base, result = bytes(reader.take(DIGEST_BYTES)), bytes(reader.take(DIGEST_BYTES))
    named, hash_of, kind_of_old, rewritten = VERSIONS[version]
    before = _read(old)
    _check_hash(f"is for the {named}", base, hash_of(old, before))
    if kind == "whole file":
        new = bytes(reader.rest())
    elif isinstance(before, kind_of_old):
        new = rewritten(before, reader)
    else:
        raise SqzError(f"the update, of version {version}, is for .sqz files of another version")
    # Of what a reader will find in the bytes, not of what was meant to be written.
    _check_hash(f"should give the {named}", result, hash_of(new, _read(new)))
    return new


def _read(data: Bytes) -> Old:
    return model_coding.decode(data) if is_of_a_model(data) else Contents.read(data)


def _check_hash(what: str, expected: bytes, found: bytes) -> None:
    if found != expected:
        raise SqzError(f"the update {what} with SHA-256 {expected.hex()}. Received: {found.hex()}")


def _hash_of_file(data: Bytes, read: Old) -> bytes:
    return hashlib.sha256(data).digest()


def _hash_of_network(data: Bytes, read: Old) -> bytes:
    return digest(read if isinstance(read, CompressedModel) else read.network())


def _framed(version: int, kind: str, digests: bytes, body: bytes) -> bytes:
    head = container.UPDATE_MAGIC + bytes([version, KINDS.index(kind)])
    return container.with_checksum(head + digests + body)


# What the two hashes are of, the function that makes them, what the changes of an update are made
# to, and the function of it and of their bytes that writes the new file.
VERSIONS: dict[int, tuple[str, Callable[..., bytes], type, Callable[[Any, Reader], bytes]]] = {
    1: ("file", _hash_of_file, Contents, network_delta.rewritten_1),
    2: ("network", _hash_of_network, Contents, network_delta.rewritten),
    3: ("network", _hash_of_network, CompressedModel, model_delta.rewritten),
}
