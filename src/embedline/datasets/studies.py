"""The searches of settings as a Kedro dataset, to look at."""

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError


class Study(AbstractDataset[None, Any]):
    """The folder ``filepath`` of Optuna's journals, written by a search; the newest is loaded, an ``optuna.Study``."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath, self.metadata = Path(filepath), metadata

    @property
    def folder(self) -> Path:
        """Where the journals lie."""
        return self._filepath

    def load(self) -> Any:
        """Load the study that was written last; raise a DatasetError where there is none."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        journals = sorted(self._filepath.glob("*.log"), key=lambda path: path.stat().st_mtime)
        if not journals:
            raise DatasetError(f"{self._filepath} holds no study: run the pipeline that tunes this source")
        storage = JournalStorage(JournalFileBackend(str(journals[-1])))
        return optuna.load_study(study_name=None, storage=storage)

    def save(self, data: None) -> None:
        """Refuse: a search writes trial by trial."""
        raise DatasetError(f"{self._filepath} is written by a search, trial by trial")

    def _exists(self) -> bool:
        return any(self._filepath.glob("*.log"))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
