"""Layers on a Dask cluster (the extra ``dask``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

from rmtcli.computing.here import elsewhere, on_cores
from rmtcli.errors import ClusterError, UsageError, first_line
from rmtcli.version import __version__

T = TypeVar("T")
R = TypeVar("R")
#: How often a layer is tried again whose worker raised what rmtcli does not raise itself. A layer
#: whose worker was lost goes to another one, as the scheduler's ``allowed-failures`` has it.
_RETRIES = 2
#: Seconds to wait for an answer of the scheduler.
_PATIENCE = 10


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where layers are sent.

    Attributes:
        executor: takes them.
        threads: layers that are under way at a time.
    """

    executor: Executor
    threads: int

    def in_order(
        self, function: Callable[[T], R], items: Iterable[T], *, alone: Callable[[T], bool]
    ) -> Iterator[R]:
        """What :func:`rmtcli.computing.here.in_order` gives, computed over there.

        Each thread of the cluster has a layer at work and one waiting.
        """
        work = partial(on_cores, function, alone)
        return elsewhere(work, items, self.executor, limit=2 * self.threads)


@contextmanager
def connected(address: str | None) -> Iterator[Cluster | None]:
    """A cluster to send tasks to; None where no address is given.

    Args:
        address: ``dask://host:port`` of a scheduler.

    Raises:
        UsageError: an address of another kind, nobody answers there, or another rmtcli does.
        ClusterError: the cluster was lost in the middle of the work.
    """
    if address is None:
        yield None
        return
    scheme, _, place = address.partition("://")
    if scheme != "dask" or not place:
        raise UsageError(f"--executor {address}: name a Dask scheduler, as dask://host:port")
    if find_spec("distributed") is None:
        raise UsageError("--executor needs distributed: pip install 'rmtcli[dask]'")
    from distributed import Client
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        client: Any = Client(f"tcp://{place}", timeout=_PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise UsageError(f"--executor {address}: no Dask scheduler answers there") from None
    with client:
        _check(client, address)
        threads = sum(client.nthreads().values())
        try:
            yield Cluster(client.get_executor(pure=False, retries=_RETRIES), threads)
        except KilledWorker as error:
            raise ClusterError(
                f"{address}: several workers died at the same layer, perhaps for want of memory: "
                f"{first_line(error)}"
            ) from None
        except (CancelledError, CommClosedError):
            raise ClusterError(f"{address}: the connection to the cluster was lost") from None


def _check(client: Any, address: str) -> None:
    """Make sure that there are workers, and that they compute what would be computed here.

    Raises:
        UsageError: they do not.
    """
    if not client.nthreads():
        raise UsageError(f"--executor {address}: the scheduler has no workers: start some")
    try:
        found = set(client.run(_version).values())
    except ModuleNotFoundError:
        raise UsageError(f"--executor {address}: install rmtcli on every worker") from None
    if found != {__version__}:
        others = ", ".join(sorted(found - {__version__}))
        raise UsageError(f"--executor {address}: a worker has rmtcli {others}, not {__version__}")


def _version() -> str:
    return __version__
