"""Work for the disk, done beside that of the processor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Does one job at a time in a thread; whoever brings a second one waits for the first.

    So at most one block is held in memory for the sake of being written.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trim-prune-writer")
        self._job: Future[None] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Begin a job when the one before it is done; an error of that one is raised here."""
        self.wait()
        self._job = self._thread.submit(job)

    def wait(self) -> None:
        """Wait for the job in hand, and raise its error."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Wait for the job in hand, whatever becomes of it."""
        self._thread.shutdown()
