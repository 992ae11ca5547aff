"""The engine alone, without git-annex's hashing, against what its arithmetic and this machine allow.

The limit is the number of cores over the sum of the seconds per byte that each step takes in a tight
loop on one core in the same run: reading, hashing, sealing, coding, writing to where the stores are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import zfec
from blake3 import blake3
from driver import Answers, gather, running
from figures import GIB, MIB, Figure, arguments, byte_count, describe, report
from harness import STORES, Repository, random_file, scratch
from nacl.bindings import (
    crypto_aead_aegis256_decrypt,
    crypto_aead_aegis256_encrypt,
    crypto_aead_aegis256_KEYBYTES,
    crypto_aead_aegis256_NPUBBYTES,
)

NEEDED, TOTAL = 4, len(STORES)
TARGET = 70
Steps = dict[str, float]
"""Seconds per byte of the object, by step."""


def per_byte(step: Callable[[], object], laps: int = 200) -> float:
    """Seconds per byte of a segment of 1 MiB that `step` takes: the median of three series."""

    def series() -> float:
        start = time.perf_counter()
        for _ in range(laps):
            step()
        return (time.perf_counter() - start) / laps / MIB

    step()
    return median(series() for _ in range(3))


def file_steps(root: Path, segment: bytes) -> tuple[float, float]:
    """Seconds per byte of reading and of writing a new file in `root`."""
    path = root / "calibration"
    size = 128 * MIB
    reading, writing = [], []
    for _ in range(3):
        path.unlink(missing_ok=True)
        start = time.perf_counter()
        with path.open("wb", buffering=0) as out:
            for _ in range(size // MIB):
                out.write(segment)
        writing.append((time.perf_counter() - start) / size)
        start = time.perf_counter()
        with path.open("rb", buffering=0) as source:
            into = bytearray(MIB)
            while source.readinto(into):
                pass
        reading.append((time.perf_counter() - start) / size)
    path.unlink()
    return median(reading), median(writing)


def calibrate(root: Path) -> dict[str, Steps]:
    """What each step takes by itself, for the three ways that an object can go."""
    segment, key = os.urandom(MIB), os.urandom(32)
    seal_key, nonce = os.urandom(crypto_aead_aegis256_KEYBYTES), os.urandom(crypto_aead_aegis256_NPUBBYTES)
    sealed = crypto_aead_aegis256_encrypt(segment, b"", nonce, seal_key)
    piece = MIB // NEEDED
    blocks = [segment[at : at + piece] for at in range(0, MIB, piece)]
    encoder, decoder = zfec.Encoder(NEEDED, 256), zfec.Decoder(NEEDED, 256)
    spare = list(range(NEEDED, TOTAL))
    made = encoder.encode(blocks, spare)
    # Every call gets lists of its own: decode reorders the blocks that it is given.
    decode = per_byte(lambda: decoder.decode([*made, *blocks[2:]], [*spare, 2, 3]))
    encode = per_byte(lambda: encoder.encode(blocks, spare))
    seal = per_byte(lambda: crypto_aead_aegis256_encrypt(segment, b"", nonce, seal_key))
    unseal = per_byte(lambda: crypto_aead_aegis256_decrypt(sealed, b"", nonce, seal_key))
    hashing = per_byte(lambda: blake3(segment, key=key).digest())
    proving = per_byte(lambda: [blake3(block).digest() for block in blocks])
    reading, writing = file_steps(root, segment)
    spread = TOTAL / NEEDED
    store = {"read": reading, "BLAKE3 keyed": hashing, "AEGIS-256 seal": seal, "zfec encode": encode}
    store |= {"BLAKE3 of blocks": proving * spread, "write": writing * spread}
    retrieve = {"read": reading, "BLAKE3 of blocks": proving, "AEGIS-256 open": unseal, "write": writing}
    return {"STORE": store, "RETRIEVE": retrieve, "RETRIEVE, two gone": retrieve | {"zfec decode": decode}}


def transfer(repository: Repository, answers: Answers, request: str) -> float:
    """Seconds that one TRANSFER takes in a process that is prepared already."""
    with running(repository, answers) as remote:
        start = time.perf_counter()
        remote.request(request)
        return time.perf_counter() - start


def measure(repository: Repository, source: Path, rounds: int) -> dict[str, float]:
    """The median seconds of each way; each round stores under a key of its own."""
    answers = gather(repository, "vault")
    stores = repository.swarm_stores("vault")
    taken: dict[str, list[float]] = {"STORE": [], "RETRIEVE": [], "RETRIEVE, two gone": []}
    for number in range(rounds):
        key = f"WORM-s{source.stat().st_size}-m{number}--random"
        back = source.with_name("back")
        taken["STORE"].append(transfer(repository, answers, f"TRANSFER STORE {key} {source}"))
        taken["RETRIEVE"].append(transfer(repository, answers, f"TRANSFER RETRIEVE {key} {back}"))
        back.unlink()
        for store in stores[:2]:
            store.rename(store.with_suffix(".gone"))
        request = f"TRANSFER RETRIEVE {key} {back}"
        taken["RETRIEVE, two gone"].append(transfer(repository, answers, request))
        back.unlink()
        for store in stores[:2]:
            store.with_suffix(".gone").rename(store)
        with running(repository, answers) as remote:
            remote.request(f"REMOVE {key}")
    return {way: median(seconds) for way, seconds in taken.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=byte_count, default=GIB)
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with scratch(options.scratch, takes=4 * options.size) as root:
        repository = Repository(root)
        repository.init_swarm("vault")
        source = random_file(root / "source", options.size)
        steps = calibrate(root)
        taken = measure(repository, source, options.rounds)
    figures = []
    for way, parts in steps.items():
        limit = cores / sum(parts.values()) / 1e6
        reached = options.size / taken[way] / 1e6
        alone = ", ".join(f"{step} {1e-9 / seconds:.1f}" for step, seconds in parts.items())
        figures += [
            Figure(f"{way}: limit of {cores} cores", limit, "MB/s", f"GB/s alone: {alone}"),
            Figure(f"{way}: engine", reached, "MB/s"),
            Figure(f"{way}: of the limit", 100 * reached / limit, "%", target=TARGET),
        ]
    report(f"The engine alone, an object of {describe(options.size)}", figures, options.json)


if __name__ == "__main__":
    main()
