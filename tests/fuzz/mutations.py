"""Ways to damage a file: anywhere, or inside of what its checksums and lengths protect."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[bytes, Random], bytes]

_WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63)
_TOKENS = (
    *(b"null", b"true", b"[]", b"{}", b'""', b'"\\ud800"', b"1e999", b"-1", b"0", b"0.5", b"NaN"),
    *(str(word).encode() for word in _WORDS),
    *(
        str(2**70).encode(),
        b"9" * 5000,
        b"[" * 3000,
        b'"../x"',
        b'"/etc/x"',
        b'"a\\nb"',
        b'"\\u0000"',
        b'"owner/name--evil.C"',
        b'{"auto_map": {"AutoModel": "evil.C"}}',
    ),
)


def flip(data: bytes, rng: Random) -> bytes:
    """Flip one bit."""
    index = rng.randrange(len(data))
    return data[:index] + bytes([data[index] ^ 1 << rng.randrange(8)]) + data[index + 1 :]


def put_byte(data: bytes, rng: Random) -> bytes:
    """Replace one byte."""
    index = rng.randrange(len(data))
    return data[:index] + bytes([rng.randrange(256)]) + data[index + 1 :]


def put_word(data: bytes, rng: Random) -> bytes:
    """Write a number where a length or an offset may be."""
    width = rng.choice((2, 4, 8))
    word = (rng.choice(_WORDS) + rng.choice((0, 0, -1, 1))) % (1 << 8 * width)
    index = rng.choice((0, rng.randrange(len(data))))
    return data[:index] + word.to_bytes(width, "little") + data[index + width :]


def cut(data: bytes, rng: Random) -> bytes:
    """Keep the beginning alone."""
    return data[: rng.randrange(len(data))]


def drop(data: bytes, rng: Random) -> bytes:
    """Remove a part."""
    start, size = rng.randrange(len(data)), rng.choice((1, 8, rng.randrange(1, len(data) + 1)))
    return data[:start] + data[start + size :]


def repeat(data: bytes, rng: Random) -> bytes:
    """Repeat a part."""
    start, size = rng.randrange(len(data)), rng.choice((1, 8, 64, 512))
    return data[: start + size] + data[start : start + size] + data[start + size :]


def move(data: bytes, rng: Random) -> bytes:
    """Copy a part of the file over another."""
    size = rng.choice((4, 16, 64))
    source, target = (rng.randrange(len(data)) for _ in range(2))
    return data[:target] + data[source : source + size] + data[target + size :]


def put_token(data: bytes, rng: Random) -> bytes:
    """Replace a number, name or word of a text by an unexpected one."""
    tokens = list(re.finditer(rb'"[^"\\\n]{0,80}"|\b\d{1,20}\b|\bnull\b|\btrue\b|\bfalse\b', data))
    if not tokens:
        return put_byte(data, rng)
    token = rng.choice(tokens)
    new = rng.choice((*_TOKENS, rng.choice(tokens)[0]))
    return data[: token.start()] + new + data[token.end() :]


_PLAIN: Sequence[Mutation] = (
    *(flip, put_byte, put_word, cut, drop, repeat, move),
    *(put_token, put_token),
)


def damaged(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """A file with one to four faults, which its checksums and lengths often do not reveal."""
    inner = rng.random() < 0.6
    if inner and data[:4] == b"PK\x03\x04" and zipfile.is_zipfile(io.BytesIO(data)):
        return _in_archive(data, rng)
    if inner and data[8:9] == b"{":
        return _in_header(data, rng)
    if inner and data[:1] in (b"{", b"["):
        return _in_json(data, rng)
    if rng.random() < 0.05:  # another file's part
        other = rng.choice(others)
        return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    return _several(data, rng)


def _several(data: bytes, rng: Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            data = rng.choice(_PLAIN)(data, rng)
    return data


def _in_json(data: bytes, rng: Random) -> bytes:
    """Valid JSON in which one value is another than expected."""
    try:
        values = json.loads(data)
    except ValueError:  # a table of TOML
        return _several(data, rng)
    paths: list[tuple[object, ...]] = []

    def walk(value: object, path: tuple[object, ...]) -> None:
        paths.append(path)
        if isinstance(value, dict | list):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inside in list(pairs):
                walk(inside, (*path, key))

    walk(values, ())
    if not paths[1:]:
        return _several(data, rng)
    *path, last = rng.choice(paths[1:])
    parent = values
    for key in path:
        parent = parent[key]
    odd = (None, True, "", "a/b", "../x", -1, 0, 2**70, 1e300, [], {}, [[1]], ["a"], {"a": [1]})
    parent[last] = rng.choice(odd)
    return json.dumps(values).encode()


def _in_header(data: bytes, rng: Random) -> bytes:
    """A safetensors file with a damaged header of the right length."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end]
    header = (_in_metadata if rng.random() < 0.5 else _several)(header, rng)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _in_metadata(header: bytes, rng: Random) -> bytes:
    """Damage a text in the header's metadata, so that the header itself stays valid."""
    tree = json.loads(header)
    texts = tree.get("__metadata__", {})
    if not texts:
        return put_token(header, rng)
    name = rng.choice(list(texts))
    texts[name] = _several(texts[name].encode(), rng).decode("utf-8", "replace")
    return json.dumps(tree).encode()


def _in_archive(data: bytes, rng: Random) -> bytes:
    """An archive with a damaged, missing or exchanged entry, and a valid table of entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        telling = [
            n for n in names if n.endswith((".pkl", ".json", "byteorder", "version", ".npy"))
        ]
        chosen = rng.choice(telling if telling and rng.random() < 0.8 else names)
        how = rng.random()
        for name in names:
            entry = old.read(name)
            if name == chosen and how < 0.05:
                continue
            if name == chosen and how < 0.1:
                entry = old.read(rng.choice(names))
            elif name == chosen and entry:
                entry = _several(entry, rng)
            new.writestr(name, entry)
    return buffer.getvalue()
