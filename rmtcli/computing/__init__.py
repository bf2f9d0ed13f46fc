"""How layers are computed: in this process, on an accelerator, on a cluster, or from a cache.

:mod:`~rmtcli.computing.device` needs torch, so it is imported only where ``--device`` asks for it.
"""

from rmtcli.computing.cache import Cache
from rmtcli.computing.cluster import Cluster, connected
from rmtcli.computing.here import cores, device_of, in_order, memory

__all__ = [
    "Cache",
    "Cluster",
    "connected",
    "cores",
    "device_of",
    "in_order",
    "memory",
]
