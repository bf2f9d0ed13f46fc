"""Makes transformers open the directories that rmtcli writes: importing it is enough.

>>> import rmtcli.integrations.transformers  # doctest: +SKIP
>>> model = transformers.AutoModel.from_pretrained("small")  # doctest: +SKIP
"""

from __future__ import annotations

from rmtcli.integrations.rmtcli_loading import (
    FactoredExperts,
    FactoredLinear,
    RmtcliConfig,
    RmtcliQuantizer,
    register,
)

__all__ = ["FactoredExperts", "FactoredLinear", "RmtcliConfig", "RmtcliQuantizer", "register"]

register()
