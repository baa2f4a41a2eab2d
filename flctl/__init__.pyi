from flctl.api import Fleet as Fleet
from flctl.api import TrainedRound as TrainedRound
from flctl.api import Training as Training
from flctl.api import connect as connect
from flctl.api import train as train
from flctl.errors import DataError as DataError
from flctl.errors import FlctlError as FlctlError
from flctl.learning.anomaly import Anomaly as Anomaly
from flctl.learning.bad_rows import read_rows as read_rows
from flctl.learning.cases import Cases as Cases
from flctl.learning.classification import Classification as Classification
from flctl.learning.classification import MultiLabel as MultiLabel
from flctl.learning.examples import Examples as Examples
from flctl.learning.regression import Regression as Regression
from flctl.learning.task import Task as Task
from flctl.wire.messages import Metric as Metric

__version__: str
__all__ = [
    "Anomaly",
    "Cases",
    "Classification",
    "DataError",
    "Examples",
    "FlctlError",
    "Fleet",
    "Metric",
    "MultiLabel",
    "Regression",
    "Task",
    "TrainedRound",
    "Training",
    "connect",
    "read_rows",
    "train",
]
