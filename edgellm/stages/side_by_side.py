"""Runs workers side by side, as many as there are cores, and ends all of them when one fails or the user stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from edgellm.runtime.client import WorkerClient
from edgellm.runtime.machine import cores

T = TypeVar("T")
Watch = Callable[[WorkerClient], WorkerClient]
"""Takes a worker that was just started, and returns it; it is killed when the others have to end."""


def side_by_side(jobs: Sequence[Callable[[Watch], T]]) -> list[T]:
    """Return what each job returned, in their order.

    Raises:
        BaseException: what the first job that failed raised, or the interrupt; no worker is left.

    """
    lock = threading.Lock()
    live: list[WorkerClient] = []
    ended = False

    def watch(worker: WorkerClient) -> WorkerClient:
        with lock:
            live.append(worker)
            if ended:
                worker.kill()
        return worker

    pool = ThreadPoolExecutor(max_workers=cores())
    try:
        futures = [pool.submit(job, watch) for job in jobs]
        for future in as_completed(futures):
            future.result()
        return [future.result() for future in futures]
    except BaseException:
        with lock:
            ended = True
            for worker in live:
                worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
