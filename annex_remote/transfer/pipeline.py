"""Work on several cores, results in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from annex_remote.workers import workers

__all__ = ["CORES", "in_order"]

CORES = os.cpu_count() or 1

A = TypeVar("A")
R = TypeVar("R")


class _Piece(Generic[R]):
    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: R | None = None
        self.error: BaseException | None = None


def in_order(function: Callable[[A], R], items: Iterable[A], ahead: int) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in order, with up to `ahead` of them under way at once.

    `items` is drawn on the caller's thread, `function` runs on others and must end by itself: it computes, and
    waits for nobody. With `ahead` of 1 all happens on the caller's thread.
    """
    if ahead <= 1:
        yield from map(function, items)
        return
    pieces: deque[_Piece[R]] = deque()

    def work(piece: _Piece[R], item: A) -> None:
        try:
            piece.result = function(item)
        except BaseException as error:  # noqa: BLE001 # raised again where the result is taken
            piece.error = error
        piece.done.set()

    def take() -> R:
        piece = pieces.popleft()
        piece.done.wait()
        if piece.error is not None:
            raise piece.error
        return piece.result  # type: ignore[return-value] # set whenever error is not

    for item in items:
        piece: _Piece[R] = _Piece()
        pieces.append(piece)
        workers.start(lambda piece=piece, item=item: work(piece, item))  # type: ignore[misc]
        if len(pieces) >= ahead:
            yield take()
    while pieces:
        yield take()
