"""Keep rules: from a spectrum and its edge to the number of singular values to keep.

One rule per file. A rule is a frozen dataclass in ``KEEP_RULES`` whose fields are its options; the
command line, the reports and ``rmtcli methods`` read them from there. A layer that a rule leaves as
it is gets a value of ``Untouched``, whose text is the sentence that a user reads. A rule sees
eigenvalues of WᵀW/n alone, so that it cannot depend on the scale or the orientation of a weight.
"""

from rmtcli.keep.auto import Auto
from rmtcli.keep.base import KEEP_RULES, KeepRule, Untouched

__all__ = ["KEEP_RULES", "Auto", "KeepRule", "Untouched"]
