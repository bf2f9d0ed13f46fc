"""Compute layers on a Dask cluster (the extra ``dask``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

from rmtcli.computing.here import run_ahead, with_blas_threads
from rmtcli.errors import ClusterError, UsageError, first_line
from rmtcli.options import option
from rmtcli.version import __version__

T = TypeVar("T")
R = TypeVar("R")
#: How often a layer is retried after an error that rmtcli does not raise itself. A layer whose
#: worker is lost goes to another worker, as often as the scheduler's ``allowed-failures`` says.
_RETRIES = 2
#: Seconds to wait for the scheduler's answer.
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connected cluster that computes layers.

    Attributes:
        executor: submits computations to the cluster.
        threads: number of threads of all workers together.
    """

    executor: Executor
    threads: int

    def in_order(
        self, function: Callable[[T], R], items: Iterable[T], *, alone: Callable[[T], bool]
    ) -> Iterator[R]:
        """Yield the function's result for each item, in the items' order, computed by the workers.

        Each thread of the cluster has one item in progress and one waiting.

        Args:
            function: the computation; it is pickled.
            items: input items; they are pickled one by one.
            alone: whether an item is large enough to use all cores of its worker.
        """
        work = partial(with_blas_threads, function, alone)
        return run_ahead(work, items, self.executor, limit=2 * self.threads)


class _Workers(Executor):
    """Submits to a cluster, and hands out Dask's own futures.

    Those of ``Client.get_executor`` fail with a ``TypeError`` if a worker dies between the moment
    when its result was fetched and that when its state is looked at; Dask's own fetch it again.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        return self._client.submit(fn, *args, **options, pure=False, retries=_RETRIES)


@contextmanager
def connected(address: str | None) -> Iterator[Cluster | None]:
    """Connect to a cluster for the duration of a ``with`` block; None if no address is given.

    Args:
        address: ``dask://host:port`` of the scheduler.

    Raises:
        UsageError: the address has another form, no scheduler answers there, or the workers do not
            have this version of rmtcli.
        ClusterError: the connection was lost, or workers died, while layers were computed.
    """
    if address is None:
        yield None
        return
    scheme, _, host = address.partition("://")
    if scheme != "dask" or not host:
        raise UsageError(
            f"{option('executor', address)}: name a Dask scheduler, as dask://host:port"
        )
    if find_spec("distributed") is None:
        raise UsageError(f"{option('executor')} needs distributed: pip install distributed")
    from distributed import Client
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        client: Any = Client(f"tcp://{host}", timeout=_TIMEOUT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise UsageError(
            f"{option('executor', address)}: no Dask scheduler answers there"
        ) from None
    with client:
        _check(client, address)
        threads = sum(client.nthreads().values())
        try:
            yield Cluster(_Workers(client), threads)
        except KilledWorker as error:
            raise ClusterError(
                f"{address}: several workers died at the same layer, perhaps because they ran out "
                f"of memory: {first_line(error)}"
            ) from None
        except (CancelledError, CommClosedError):
            raise ClusterError(f"{address}: the connection to the cluster was lost") from None


def _check(client: Any, address: str) -> None:
    """Make sure that the cluster has workers and that they run this version of rmtcli.

    Raises:
        UsageError: it has no workers, or one of them lacks this version.
    """
    if not client.nthreads():
        raise UsageError(f"{option('executor', address)}: the scheduler has no workers: start some")
    try:
        versions = set(client.run(_version).values())
    except ModuleNotFoundError:
        raise UsageError(f"{option('executor', address)}: install rmtcli on every worker") from None
    if versions != {__version__}:
        others = ", ".join(sorted(versions - {__version__}))
        raise UsageError(
            f"{option('executor', address)}: a worker has rmtcli {others}, not {__version__}"
        )


def _version() -> str:
    """Version of rmtcli in the process that calls this: a worker's, when sent there."""
    return __version__
