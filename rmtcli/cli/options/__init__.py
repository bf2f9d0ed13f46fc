"""The options of all commands, each written once.

Options that belong together are fields of one dataclass, a group, in a module of its own; a command
takes a group as one parameter (:mod:`rmtcli.cli.groups`), and names with ``Only`` the fields that
it offers if not all. The fields are named like those of the library's dataclass that the group
builds, and a test compares the two. Nothing here imports the library before a command runs.
"""

from rmtcli.cli.groups import Only
from rmtcli.cli.options.adapters import AdapterOptions
from rmtcli.cli.options.calibration import CalibrationOptions
from rmtcli.cli.options.common import (
    Batch,
    Bits,
    Cache,
    Checkpoint,
    DryRun,
    Edge,
    Executor,
    Keep,
    Key,
    Layout,
    Onnx,
    PathOrURL,
    Vocab,
    output_option,
    to_path,
)
from rmtcli.cli.options.evaluation import EvaluationOptions
from rmtcli.cli.options.goal import GoalOptions
from rmtcli.cli.options.output import OutputOptions
from rmtcli.cli.options.plan import PlanOptions
from rmtcli.cli.options.selection import SelectionOptions
from rmtcli.cli.options.training import TrainingOptions

__all__ = [
    "AdapterOptions",
    "Batch",
    "Bits",
    "Cache",
    "CalibrationOptions",
    "Checkpoint",
    "DryRun",
    "Edge",
    "EvaluationOptions",
    "Executor",
    "GoalOptions",
    "Keep",
    "Key",
    "Layout",
    "Only",
    "Onnx",
    "OutputOptions",
    "PathOrURL",
    "PlanOptions",
    "SelectionOptions",
    "TrainingOptions",
    "Vocab",
    "output_option",
    "to_path",
]
