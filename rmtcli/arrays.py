"""The one array type that all numerics share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Values in float64, of any shape; docstrings say which.
FloatArray = NDArray[np.float64]
