"""Services as Kedro datasets: the file that a run writes, and the champion of MLflow's model registry."""

from typing import Any

from kedro.io import AbstractDataset, DatasetError

from embedline.datasets.bundle import Bundle
from embedline.errors import DataError


class Service(Bundle):
    """:class:`embedline.serving.service.Service` in one file."""

    @staticmethod
    def kind() -> Any:
        """The class, imported when a file is read: it needs PyTorch."""
        from embedline.serving.service import Service

        return Service


class Champion(AbstractDataset[None, Any]):
    """The champion of a registered model, as :class:`embedline.serving.service.Service`; it is only read.

    A run that publishes moves the alias (:mod:`embedline.hooks.publish`), under the name that stands here.

    Args:
        name: of the registered model.
        alias: of the version.
        tracking_uri: MLflow's, that of ``mlflow.yml``.
    """

    def __init__(
        self, *, name: str, alias: str = "champion", tracking_uri: str, metadata: dict[str, Any] | None = None
    ) -> None:
        self.name, self.alias, self.tracking_uri, self.metadata = name, alias, tracking_uri, metadata

    @property
    def uri(self) -> str:
        """What ``mlflow models serve -m`` takes."""
        return f"models:/{self.name}@{self.alias}"

    def load(self) -> Any:
        """Download and read the champion; raise a DataError where there is none."""
        from embedline.serving.registry import Registry

        return Registry(self.tracking_uri).load(self.name, self.alias)

    def save(self, data: None) -> None:
        """Refuse: only a run that publishes makes a champion."""
        raise DatasetError(f"{self.uri} is made by a run that publishes, not saved")

    def _exists(self) -> bool:
        from embedline.serving.registry import Registry

        try:
            return Registry(self.tracking_uri).find(self.name, self.alias) is not None
        except DataError:
            return False

    def _describe(self) -> dict[str, Any]:
        return {"name": self.name, "alias": self.alias, "tracking_uri": self.tracking_uri}
