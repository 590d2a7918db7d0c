"""Experiment trackers: one file each. A new one is one file here and one line in this table."""

from fedapt.tracking.mlflow import MLflow
from fedapt.tracking.tensorboard import TensorBoard
from fedapt.tracking.tracker import Tracker
from fedapt.tracking.wandb import WeightsAndBiases

TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}
