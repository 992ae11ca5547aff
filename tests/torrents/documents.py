"""Torrents made by the letter of the BEPs, and with none of the code under test but the encoding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from annex_remote.torrents.bencode import encode
from annex_remote.torrents.metainfo import Metainfo

BLOCK = 16384


def content(name: str, size: int) -> bytes:
    """Return what the files of the vectors hold: their name, line after line."""
    line = f"{name}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def v2_root(data: bytes, leaves: int) -> bytes:
    """Return the root of a tree of so many leaves, each hashed, as BEP 52 draws it."""
    nodes = [sha256(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    nodes += [bytes(32)] * (leaves - len(nodes))
    while len(nodes) > 1:
        nodes = [sha256(nodes[at] + nodes[at + 1]) for at in range(0, len(nodes), 2)]
    return nodes[0]


def v2_file(data: bytes, length: int) -> tuple[dict[str, Any], list[bytes]]:
    """Return the file's entry of the tree, and its piece layer."""
    if not data:
        return {"length": 0}, []
    leaves = 1
    while leaves * BLOCK < len(data):
        leaves *= 2
    layer = [v2_root(data[at : at + length], length // BLOCK) for at in range(0, len(data), length)]
    return {"length": len(data), "pieces root": v2_root(data, leaves)}, layer if len(layer) > 1 else []


def v1_info(
    files: list[dict[str, Any]], data: bytes | None = None, length: int = BLOCK, **more: Any
) -> dict[str, Any]:
    size = sum(max(0, file["length"]) for file in files)
    pieces = -(-size // length)
    hashes = bytes(20 * pieces)
    if data is not None:
        hashes = b"".join(hashlib.sha1(data[at : at + length]).digest() for at in range(0, size, length))
    return {"name": "T", "piece length": length, "files": files, "pieces": hashes, **more}


def entry(length: int, *path: str | bytes, **more: Any) -> dict[str, Any]:
    return {"length": length, "path": [*path], **more}


def v2_parts(contents: Mapping[str, bytes], length: int) -> tuple[dict[str, Any], dict[bytes, bytes]]:
    tree: dict[str, Any] = {}
    layers: dict[bytes, bytes] = {}
    for path, data in contents.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        file, layer = v2_file(data, length)
        node[name] = {"": file}
        if layer:
            layers[file["pieces root"]] = b"".join(layer)
    return tree, layers


def v2(contents: Mapping[str, bytes], length: int = BLOCK, **more: Any) -> bytes:
    tree, layers = v2_parts(contents, length)
    info = {"name": "T", "piece length": length, "meta version": 2, "file tree": tree}
    return encode({"info": info | more, "piece layers": layers})


def v1(files: list[dict[str, Any]], **more: Any) -> bytes:
    return encode({"info": v1_info(files, **more)})


def top(**more: Any) -> bytes:
    return encode({"info": v1_info([entry(5, "a"), entry(6, "b")]), **more})


def listed(torrent: Metainfo) -> list[tuple[int, str, int, int]]:
    return [(file.number, "/".join(file.path), file.size, file.offset) for file in torrent.files]


def hybrid(v1_files: list[dict[str, Any]], contents: Mapping[str, bytes], **more: Any) -> bytes:
    tree, layers = v2_parts(contents, BLOCK)
    data = bytearray()
    for file in v1_files:
        data += contents.get("/".join(file["path"]), b"") or bytes(file["length"])
    info = v1_info(v1_files, bytes(data), **{"meta version": 2, "file tree": tree, **more})
    return encode({"info": info, "piece layers": layers})


A, B, C = b"a" * 5, b"b" * (BLOCK + 1), b"c" * 7
ABC = {"a": A, "b": B, "c": C}
PAD_A, PAD_B, PAD_C = (
    entry(BLOCK - 5, ".pad", "1", attr="p"),
    entry(BLOCK - 1, "x", attr="p"),
    entry(BLOCK - 7, "y", attr="p"),
)
FILE_A, FILE_B, FILE_C = entry(5, "a"), entry(BLOCK + 1, "b"), entry(7, "c")


def info_with(**more: Any) -> bytes:
    changes = {name.replace("_", " "): value for name, value in more.items()}
    return encode({"info": v1_info([entry(5, "a"), entry(BLOCK, "b")]) | changes})


def tree_with(tree: Any, layers: Any = None, **more: Any) -> bytes:
    info = {"name": "T", "piece length": BLOCK, "meta version": 2, "file tree": tree, **more}
    return encode({"info": info, "piece layers": {} if layers is None else layers})


def info_of(document: bytes) -> bytes:
    """Return the info dictionary of a document that has nothing behind it but piece layers."""
    start = document.index(b"4:info") + 6
    end = document.rfind(b"12:piece layers")
    return document[start : end if end > 0 else -1]
