"""
A stage that lets the next one work at the same time.
"""

from __future__ import annotations

import threading
from queue import Queue

from .stages import Stage

_WAITING = 4
"""
Pieces that may wait: the slower stage never has to, and memory stays small.
"""


class Aside:
    """
    Hands what it takes to another stage, in a thread of its own.

    What the other stage raises is raised by a later call.
    """

    def __init__(self, then: Stage) -> None:
        self._then = then
        self._pieces: Queue[bytes | None] = Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_void = False

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next bytes; waits while many are waiting.
        """
        if self._error is not None:
            raise self._error

        if self._thread is None:
            # A program that ends in the middle does not wait for it.
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

        self._pieces.put(bytes(data))

    def finish(self) -> None:
        """
        Let the other stage take all there is, and finish.
        """
        self._join()

        if self._error is not None:
            raise self._error

        self._then.finish()

    def discard(self) -> None:
        """
        Let the other stage forget.
        """
        self._is_void = True
        self._join()
        self._then.discard()

    def _join(self) -> None:
        thread, self._thread = self._thread, None

        if thread is not None:
            self._pieces.put(None)
            thread.join()

    def _work(self) -> None:
        # To the end in any case: whoever hands over must never wait in vain.
        while (piece := self._pieces.get()) is not None:
            if self._error is None and not self._is_void:
                try:
                    self._then.write(piece)
                except BaseException as error:  # noqa: BLE001 - raised by a later call
                    self._error = error
