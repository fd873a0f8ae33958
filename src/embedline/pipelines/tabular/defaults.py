"""Settings that follow the table: of the network where no layers are given, of the training where no epochs are."""

import math

from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.options import NetworkOptions, PiecewiseLinearOptions, TableTraining
from embedline.training.options import HeldOutStopping
