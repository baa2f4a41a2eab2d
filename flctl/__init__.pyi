from flctl.api import Fleet as Fleet
from flctl.api import TrainedRound as TrainedRound
from flctl.api import Training as Training
from flctl.api import connect as connect
from flctl.api import train as train
from flctl.errors import FlctlError as FlctlError
from flctl.learning.examples import Examples as Examples
from flctl.learning.task import Task as Task
from flctl.wire.messages import Metric as Metric

__version__: str
__all__ = [
    "Examples",
    "FlctlError",
    "Fleet",
    "Metric",
    "Task",
    "TrainedRound",
    "Training",
    "connect",
    "train",
]
