"""Datasets: train, validation and test splits that yield normalized batches."""

from vitutils.data.datasets import CIFAR, DATA, Dataset, load

__all__ = ["CIFAR", "DATA", "Dataset", "load"]
