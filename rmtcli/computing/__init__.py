"""Where layers are computed: in this process, on an accelerator, on a cluster; or looked up.

:mod:`~rmtcli.computing.device` needs torch and is imported where ``--device`` asks for it.
"""

from rmtcli.computing.cache import Cache
from rmtcli.computing.cluster import Cluster, connected
from rmtcli.computing.here import cores, in_order

__all__ = [
    "Cache",
    "Cluster",
    "connected",
    "cores",
    "in_order",
]
