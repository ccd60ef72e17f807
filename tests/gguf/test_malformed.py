"""Contract: files made by hand, after the list in llama.cpp's tests/test-gguf.cpp; a wrong one is refused in a line."""

import re
import struct
import tracemalloc

import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.gguf import read
from tests.gguf.checks import one_line, touch
from tests.gguf.craft import ARRAY, BOOL, I32, STRING, U8, U32, U64, Craft

NEGATIVE = 2**64 - 1


def header_bytes(version: int, n_tensors: int = 0, n_kv: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_kv)


def kv(key: str | bytes, kind: int, value: object, length: int | None = None) -> bytes:
    craft = Craft().add(key, kind, value)
    if length is not None:
        craft.kv[0] = struct.pack("<Q", length) + craft.kv[0][8:]
    return craft.file()


def value(key: str, kind: int, raw: bytes) -> bytes:
    """A header that ends with the bytes of a value."""
    return Craft(kv=[Craft().string(key) + struct.pack("<I", kind) + raw]).header()


def one_tensor(name: str = "t", dims=(32,), type_id: int = 0, offset: int = 0, data: int = 128, **more) -> bytes:
    return Craft().tensor(name, list(dims), type_id, offset, **more).file(bytes(data))


def aligned(value: object, kind: int = U32, offset: int = 32, n: int = 8) -> bytes:
    craft = Craft().add("general.alignment", kind, value)
    return craft.tensor("a", [n], 0, 0).tensor("b", [n], 0, offset).file(bytes(offset + 4 * n))


def two_tensors(*tensors: tuple[str, list[int], int, int], data: int = 128) -> bytes:
    craft = Craft()
    for tensor in tensors:
        craft.tensor(*tensor)
    return craft.file(bytes(data))


def nested(depth: int) -> bytes:
    craft = Craft()
    value = craft.array(U8, [1])
    for _ in range(depth - 1):
        value = craft.array(ARRAY, [value])
    return craft.add("bomb", ARRAY, value).file()


def wide(n: int) -> bytes:
    craft = Craft()
    return craft.add("bomb", ARRAY, craft.array(ARRAY, [craft.array(U8, [])] * n)).file()


REFUSED = {
    "HEADER_BAD_MAGIC": (b"GGML" + header_bytes(3)[4:], "magic"),
    "HEADER_BAD_VERSION_0": (header_bytes(0), "version"),
    "HEADER_BAD_VERSION_FUTURE": (header_bytes(4), "version"),
    "HEADER_BAD_VERSION_BOTH_ORDERS": (header_bytes(0x03000003), "version"),
    "HEADER_BAD_N_TENSORS": (header_bytes(3, n_tensors=NEGATIVE), "tensor count"),
    "HEADER_BAD_N_KV": (header_bytes(3, n_kv=NEGATIVE), "metadata count"),
    "HEADER_2_63_TENSORS": (header_bytes(3, n_tensors=2**63), "tensor count"),
    "HEADER_ONE_TENSOR_TOO_MANY": (header_bytes(3, n_tensors=1), "tensor count"),
    "HEADER_CUT": (header_bytes(3)[:-1], "metadata count"),
    "HEADER_EMPTY_FILE": (b"", "empty"),
    "KV_BAD_KEY_SIZE": (kv("key", U32, 1, length=NEGATIVE), "metadata key 0"),
    "KV_KEY_SIZE_2_31": (kv("key", U32, 1, length=2**31), "metadata key 0"),
    "KV_EMPTY_KEY": (kv("", U32, 1), "metadata key 0"),
    "KV_BAD_TYPE": (Craft(kv=[Craft().string("key") + struct.pack("<I", 13) + bytes(8)]).file(), "'key'"),
    "KV_DUPLICATE_KEY": (Craft().add("key", U32, 1).add("key", U32, 2).file(), "'key'"),
    "KV_BAD_ALIGN": (kv("general.alignment", U32, 13), "general.alignment"),
    "KV_ZERO_ALIGN": (kv("general.alignment", U32, 0), "general.alignment"),
    "KV_WRONG_TYPE_ALIGN": (kv("general.alignment", I32, 32), "general.alignment"),
    "KV_STRING_ALIGN": (kv("general.alignment", STRING, "32"), "general.alignment"),
    "KV_BAD_STRING_SIZE": (value("key", STRING, struct.pack("<Q", NEGATIVE) + b"x"), "'key'"),
    "KV_BAD_ARRAY_TYPE": (kv("key", ARRAY, struct.pack("<IQ", 13, 0)), "'key'"),
    "KV_BAD_ARRAY_SIZE": (kv("key", ARRAY, struct.pack("<IQ", U8, NEGATIVE)), "'key'"),
    "KV_BAD_ARRAY_SIZE_U64": (kv("key", ARRAY, struct.pack("<IQ", U64, 2**61 + 1)), "'key'"),
    "KV_BAD_STRING_ARRAY_SIZE": (kv("key", ARRAY, struct.pack("<IQ", STRING, 2**61)), "'key'"),
    "KV_BAD_STRING_IN_ARRAY": (kv("key", ARRAY, struct.pack("<IQQQ", STRING, 2, NEGATIVE, 0)), "'key'"),
    "KV_LONG_STRING_IN_ARRAY": (kv("key", ARRAY, struct.pack("<IQQQ", STRING, 2, 2**63 - 1, 0)), "'key'"),
    "KV_LAST_STRING_IN_ARRAY": (value("key", ARRAY, struct.pack("<IQQ", STRING, 1, 1)), "'key'"),
    "KV_BAD_NESTED_SIZE": (kv("key", ARRAY, struct.pack("<IQ", ARRAY, 2**40)), "'key'"),
    "KV_NESTED_TOO_DEEP": (nested(65), "'bomb'"),
    "KV_NESTED_VERY_DEEP": (nested(5000), "'bomb'"),
    "KV_NESTED_TOO_MANY": (wide((1 << 16) + 1), "'bomb'"),
    "TENSORS_BAD_NAME_SIZE": (one_tensor("t" * 64), "name of tensor 0"),
    "TENSORS_NAME_SIZE_NEGATIVE": (Craft(tensors=[struct.pack("<Q", NEGATIVE) + bytes(24)]).file(), "name of tensor 0"),
    "TENSORS_BAD_N_DIMS": (one_tensor(dims=(1, 1, 1, 1, 32)), "'t'"),
    "TENSORS_N_DIMS_2_32": (one_tensor(n_dims=2**32 - 1), "'t'"),
    "TENSORS_BAD_SHAPE": (one_tensor(dims=(NEGATIVE,)), "'t'"),
    "TENSORS_NE_TOO_BIG": (one_tensor(dims=(2**40, 2**40)), "'t'"),
    "TENSORS_NE_WRAPS_TO_ZERO": (one_tensor(dims=(2**32, 2**32)), "'t'"),
    "TENSORS_NE_ZERO_TIMES_HUGE": (one_tensor(dims=(0, 2**62, 2**62)), "'t'"),
    "TENSORS_NBYTES_TOO_BIG": (one_tensor(dims=(2**31, 2**28)), "'t'"),
    "TENSORS_BAD_TYPE": (one_tensor(type_id=10_000), "'t'"),
    "TENSORS_REMOVED_TYPE": (one_tensor(type_id=4), "'t'"),
    "TENSORS_ACTIVATION_TYPE": (one_tensor(type_id=9), "'t'"),
    "TENSORS_BAD_ROW": (one_tensor(dims=(31,), type_id=8), "'t'"),
    "TENSORS_SCALAR_OF_BLOCKS": (one_tensor(dims=(), type_id=8), "'t'"),
    "TENSORS_BAD_OFFSET": (one_tensor(offset=1, data=256), "'t'"),
    "TENSORS_OFFSET_WRAPS": (one_tensor(offset=2**64 - 32), "'t'"),
    "TENSORS_OVERLAP": (two_tensors(("a", [32], 0, 0), ("b", [8], 0, 96)), "'b'"),
    "TENSORS_SAME_OFFSET": (two_tensors(("a", [8], 0, 0), ("b", [8], 0, 0)), "'b'"),
    "TENSORS_DUPLICATE_NAME": (two_tensors(("a", [8], 0, 0), ("a", [8], 0, 32)), "'a'"),
    "TENSORS_BAD_ALIGN": (aligned(13), "general.alignment"),
    "TENSORS_INCONSISTENT_ALIGN": (aligned(64), "'b'"),
    "DATA_NOT_ENOUGH_DATA": (one_tensor(data=127), "'t'"),
    "DATA_NONE": (Craft().tensor("t", [32], 0, 0).header(), "'t'"),
    "DATA_BAD_ALIGN": (aligned(12, offset=36), "general.alignment"),
    "DATA_INCONSISTENT_ALIGN": (aligned(32, offset=36), "'b'"),
    "DATA_MEM_SIZE_OVERFLOW": (
        two_tensors(("a", [0x7FFFFFFFFFFFFFC0], 24, 0), ("b", [0x7FFFFFFFFFFFFFC0], 24, 0x7FFFFFFFFFFFFFC0)),
        "'a'",
    ),
}

ACCEPTED = {
    "HEADER_EMPTY": header_bytes(3),
    "HEADER_VERSION_1": b"GGUF" + struct.pack("<III", 1, 0, 0),
    "HEADER_VERSION_2": header_bytes(2),
    "KV_SUCCESS": Craft().add("a", U32, 1).add("b", STRING, "x").file(),
    "KV_NESTED_TO_THE_CAP": nested(64),
    "KV_NESTED_AS_MANY_AS_ALLOWED": wide(1 << 16),
    "TENSORS_ZERO_DIM": two_tensors(("a", [0, 3], 0, 0), ("b", [8], 0, 0), ("c", [32, 0], 8, 0)),
    "TENSORS_ZERO_TIMES_LARGE": two_tensors(
        ("a", [0, 2**59], 28, 0), ("b", [2**59, 0], 28, 0), ("c", [2**59, 0], 8, 0)
    ),
    "TENSORS_NO_DIMS": one_tensor(dims=()),
    "TENSORS_LONGEST_NAME": one_tensor("t" * 63),
    "TENSORS_SUCCESS": two_tensors(("a", [8], 0, 0), ("b", [8], 0, 32)),
    "TENSORS_OUT_OF_ORDER": two_tensors(("b", [8], 0, 32), ("a", [8], 0, 0)),
    "TENSORS_WITH_GAPS": two_tensors(("a", [8], 0, 0), ("b", [8], 0, 96)),
    "TENSORS_CUSTOM_ALIGN": aligned(1, n=8),
    "TENSORS_OFFSETS_OF_A_WIDER_ALIGN": aligned(16, n=4),
    "DATA_SUCCESS": one_tensor(),
    "DATA_CUSTOM_ALIGN": aligned(64, offset=64),
    "DATA_UNPADDED_END": one_tensor(dims=(3,), data=12),
}

REFUSED_WHEN_STRICT = {
    "VERSION_1": (b"GGUF" + struct.pack("<III", 1, 0, 0), "version"),
    "VERSION_2": (header_bytes(2), "version"),
    "KEY_OF_CAPITALS": (kv("General.name", U32, 1), "General"),
    "KEY_WITH_EMPTY_SEGMENT": (kv("general..name", U32, 1), "general..name"),
    "KEY_TOO_LONG": (kv("k" * 65536, U32, 1), "kkk"),
    "KEY_NOT_UTF8": (kv(b"\xff", U32, 1), "UTF-8"),
    "STRING_NOT_UTF8": (kv("key", STRING, b"\xff"), "UTF-8"),
    "STRING_IN_ARRAY_NOT_UTF8": (kv("key", ARRAY, Craft().array(STRING, ["a", b"\xff"])), "string 1"),
    "BOOL_2": (Craft(kv=[Craft().string("key") + struct.pack("<IB", BOOL, 2)]).file(), "'key'"),
    "BOOL_2_IN_ARRAY": (
        Craft(kv=[Craft().string("key") + struct.pack("<IIQBB", ARRAY, BOOL, 2, 1, 2)]).file(),
        "'key'",
    ),
    "ALIGNMENT_4": (kv("general.alignment", U32, 4), "general.alignment"),
    "PADDING_BEFORE_DATA": (Craft().tensor("t", [32], 0, 0).header().ljust(96, b"\1") + bytes(128), "padding"),
    "PADDING_BETWEEN_TENSORS": (
        Craft().tensor("a", [1], 0, 0).tensor("b", [1], 0, 32).file(b"1234" + b"\1" * 28 + b"1234"),
        "padding",
    ),
    "NO_QUANTIZATION_VERSION": (one_tensor(type_id=8), "general.quantization_version"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, stored):
    content, part = REFUSED[name]
    for strict in (False, True):
        with pytest.raises(GGUFError) as error:
            read(stored(content), strict=strict)
        assert one_line(error).startswith(f"{stored(content)}: ")
    with pytest.raises(GGUFError, match=re.escape(part)):
        read(stored(content))


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name, stored):
    touch(stored(ACCEPTED[name]))


@pytest.mark.parametrize("name", REFUSED_WHEN_STRICT)
def test_refused_when_strict(name, stored):
    content, part = REFUSED_WHEN_STRICT[name]
    touch(stored(content))
    with pytest.raises(GGUFError, match=re.escape(part)) as error:
        read(stored(content), strict=True)
    one_line(error)


@pytest.mark.parametrize("name", [name for name, (content, _) in REFUSED.items() if len(content) < 10_000])
def test_refusing_takes_no_memory(name, stored):
    path = stored(REFUSED[name][0])
    tracemalloc.start()
    try:
        with pytest.raises(GGUFError):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
