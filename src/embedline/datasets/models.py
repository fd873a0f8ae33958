"""Trained models as Kedro datasets: bundles, services, the champion of MLflow's registry, searches of settings."""

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from kedro.io.core import get_filepath_str

from embedline.datasets.files import Bytes
from embedline.errors import DataError


class Bundle(Bytes):
    """:class:`embedline.training.model_file.ModelBundle` in one file."""

    @staticmethod
    def kind() -> Any:
        """The class of the content, imported when a file is read, since it needs PyTorch."""
        from embedline.training.model_file import ModelBundle

        return ModelBundle

    def load(self) -> Any:
        """Read the newest version, or the one asked for."""
        path = get_filepath_str(self._get_load_path(), self._protocol)
        return self.kind().from_bytes(self._fs.cat_file(path), name=path)

    def save(self, data: Any) -> None:
        """Write ``data`` as the version of this run."""
        with self._fs.open(get_filepath_str(self._get_save_path(), self._protocol), "wb") as file:
            file.write(data.to_bytes())


class Service(Bundle):
    """:class:`embedline.serving.service.Service` in one file."""

    @staticmethod
    def kind() -> Any:
        """The class of the content, imported when a file is read, since it needs PyTorch."""
        from embedline.serving.service import Service

        return Service


class Champion(AbstractDataset[None, Any]):
    """The champion of a registered model, as :class:`embedline.serving.service.Service`; it is only read.

    A run that publishes moves the ``alias`` (:mod:`embedline.hooks.runs`) of the model ``name``; ``tracking_uri`` is
    that of ``mlflow.yml``.
    """

    def __init__(
        self, *, name: str, alias: str = "champion", tracking_uri: str, metadata: dict[str, Any] | None = None
    ) -> None:
        self.name, self.alias, self.tracking_uri, self.metadata = name, alias, tracking_uri, metadata

    @property
    def uri(self) -> str:
        """Address of the model, such as for ``mlflow models serve -m``."""
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


class Study(AbstractDataset[None, Any]):
    """The folder ``filepath`` of Optuna's journals, written by a search; the newest is loaded, an ``optuna.Study``."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self.folder, self.metadata = Path(filepath), metadata

    def load(self) -> Any:
        """Load the study that was written last; raise a DatasetError where there is none."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        journals = sorted(self.folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        if not journals:
            raise DatasetError(f"{self.folder} holds no study: run the pipeline that tunes this source")
        storage = JournalStorage(JournalFileBackend(str(journals[-1])))
        return optuna.load_study(study_name=None, storage=storage)

    def save(self, data: None) -> None:
        """Refuse: a search writes trial by trial."""
        raise DatasetError(f"{self.folder} is written by a search, trial by trial")

    def _exists(self) -> bool:
        return any(self.folder.glob("*.log"))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.folder)}
