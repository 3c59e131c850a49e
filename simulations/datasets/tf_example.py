"""`tf.Example` records without TensorFlow: a reader of the few fields they use.

Wire format of protocol buffers: each field is a key (number and type) and a value.
`Example{Features features=1}`, `Features{map<string, Feature> feature=1}`,
`Feature{BytesList=1 | FloatList=2 | Int64List=3}`, each list with `value=1`, packed or
not.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
Value = NDArray[np.float32] | NDArray[np.int64] | list[bytes]


def parse_example(record: bytes) -> dict[str, Value]:
    """Features by name: float32 or int64 arrays `[n]`, or lists of bytes.

    Raises:
        ValueError: not a serialised `tf.Example`.

    Example:
        >>> parse_example(bytes.fromhex("0a100a0e0a056c6162656c12051a030a0107"))
        {'label': array([7])}
    """
    features: dict[str, Value] = {}
    for number, content in _fields(memoryview(record)):
        if number == 1 and isinstance(content, memoryview):
            for _, entry in _fields(content):
                if isinstance(entry, memoryview):
                    parts = dict(_fields(entry))
                    name, value = parts.get(1), parts.get(2)
                    if isinstance(name, memoryview) and isinstance(value, memoryview):
                        features[bytes(name).decode()] = _feature(value)
    return features


def _feature(content: memoryview) -> Value:
    for number, values in _fields(content):
        if not isinstance(values, memoryview):
            break
        items = [item for key, item in _fields(values) if key == 1]
        if number == 1:
            return [bytes(item) for item in items if isinstance(item, memoryview)]
        if number == 2:
            packed = b"".join(i for i in items if isinstance(i, memoryview))
            return np.frombuffer(packed, dtype="<f4")
        if number == 3:
            numbers: list[int] = []
            for item in items:
                numbers += [item] if isinstance(item, int) else _varints(item)
            return np.array(numbers, dtype=np.uint64).astype(np.int64)
    return []


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, varint or bytes) of a message, in order."""
    at, end = 0, len(content)
    while at < end:
        key, at = _varint(content, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield key >> 3, value
            continue
        if kind == _LENGTH:
            size, at = _varint(content, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of type {kind} is not part of tf.Example.")
        if at + size > end:
            raise ValueError("the record ends inside a field.")
        yield key >> 3, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ValueError("the record ends inside a number.")
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _varints(content: memoryview) -> list[int]:
    """All numbers of a packed list, seven bits a byte, lowest first."""
    raw = np.frombuffer(content, dtype=np.uint8)
    if not len(raw):
        return []
    if raw[-1] >= 128:
        raise ValueError("the record ends inside a number.")
    starts = np.concatenate([[0], np.flatnonzero(raw < 128)[:-1] + 1])
    place = np.arange(len(raw)) - np.repeat(starts, np.diff(starts, append=len(raw)))
    bits = (raw & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    numbers: list[int] = np.bitwise_or.reduceat(bits, starts).tolist()
    return numbers
