"""Work in a forked process, which takes the memory of what it imports with it."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import TypeVar

from ccat_workflow_manager.errors import WorkflowError

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1


def in_forked_process(work: Callable[[], T]) -> T:
    """Do the work in a forked process, for its result. It must be possible to pickle that.

    Must be called before the first thread starts. Raises the WorkflowError that the work raises.
    """
    me = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(me)
            os.close(reader)
            with open(writer, "wb") as pipe:
                pipe.write(_answer(work))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    # Without an answer something unforeseen has happened: it happens here once more, with its traceback.
    answer: T | WorkflowError = pickle.loads(data) if data else work()
    if isinstance(answer, WorkflowError):
        raise answer
    return answer


def _answer(work: Callable[[], object]) -> bytes:
    """The result, or the error, as bytes."""
    try:
        return pickle.dumps(work())
    except WorkflowError as error:
        return pickle.dumps(error)


def die_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent dies: an orphan would keep the port of the API."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it has died already; in a container it may be process 1
        os.kill(os.getpid(), signal.SIGTERM)
