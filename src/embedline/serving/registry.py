"""Services in MLflow's model registry: versions with their scores, and the alias of the champion."""

import importlib.metadata
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from embedline.errors import DataError
from embedline.serving import pyfunc
from embedline.serving.champion import RecordedScore, decide, measure
from embedline.serving.columns import signature_of
from embedline.serving.service import Service

CHAMPION = "champion"
SCORE, IDENTITY = "embedline.figures", "embedline.identity"  # tags of a version; registries hold these names

# What an environment needs to answer, as it is installed here; named so that MLflow does not have to guess for seconds.
REQUIREMENTS = (
    *(
        "fsspec",
        "kedro",
        "mlflow",
        "narwhals",
        "numpy",
        "pandas",
        "pillow",
        "polars",
        "pyarrow",
        "pydantic",
        "safetensors",
    ),
    *("scikit-learn", "spacy", "torch", "tqdm"),
)


@dataclass(frozen=True)
class Version:
    """A registered version; ``score`` is None where it was registered by other means."""

    name: str
    number: str
    identity: str | None
    score: RecordedScore | None


@dataclass(frozen=True)
class Published:
    """The result of a publication: the version with the service, whether it ``is_new``, and the champion, and why."""

    version: Version
    is_new: bool
    is_champion: bool
    reason: str


class Registry:
    """MLflow's model registry behind a tracking URI."""

    def __init__(self, tracking_uri: str) -> None:
        import mlflow

        self.tracking_uri = tracking_uri
        self._client = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def find(self, name: str, alias: str = CHAMPION) -> Version | None:
        """The version that an alias stands at, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, or no alias
                return None
            raise

    def versions(self, name: str) -> list[Version]:
        """All versions, the newest first."""
        found = self._client.search_model_versions(f"name = '{name}'")
        return sorted(map(_version, found), key=lambda version: -int(version.number))

    def load(self, name: str, alias: str = CHAMPION) -> Service:
        """Download and read a version; raise a DataError where there is none."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        uri = f"models:/{name}@{alias}"
        version = self.find(name, alias)
        if version is None:
            raise DataError(f"there is no {uri} in {self.tracking_uri}")
        try:
            # By its place: MLflow looks an alias up in the registry of the process, whatever URI this client has.
            place = self._client.get_model_version_download_uri(name, version.number)
            with tempfile.TemporaryDirectory() as folder:
                path = download_artifacts(
                    artifact_uri=f"{place}/data/{pyfunc.FILE}", dst_path=folder, tracking_uri=self.tracking_uri
                )
                content = Path(path).read_bytes()
        except (MlflowException, OSError) as error:
            raise DataError(f"{uri} cannot be read: {' '.join(str(error).split())}") from error
        return Service.from_bytes(content, name=uri)

    def publish(self, name: str, service: Service, score: RecordedScore, evaluation: Any, log: Any) -> Published:
        """Register a service unless a version has it already, and make it the champion if it beats the present one.

        Args:
            score: of the service on ``evaluation``.
            evaluation: gives the raw held-out rows, read only if the champion has to answer them.
            log: logs ``service`` to the active run and gives the URI of the logged model.
        """
        import mlflow

        champion, identity = self.find(name), service.identity
        if champion is not None and champion.identity == identity:
            return Published(champion, False, True, "it is the champion already")
        version = next((version for version in self.versions(name) if version.identity == identity), None)
        is_new = version is None
        if version is None:
            version = _version(mlflow.register_model(log(service), name, tags={IDENTITY: identity}))
        decision = decide(
            score,
            champion.score if champion else None,
            (lambda: measure(self.load(name).open(), evaluation())) if champion else None,
        )
        self._client.set_model_version_tag(name, version.number, SCORE, score.model_dump_json())
        if decision.wins:
            self._client.set_registered_model_alias(name, CHAMPION, version.number)
        return Published(version, is_new, decision.wins, decision.reason)


def log_service(service: Service, name: str) -> str:
    """Log a service as an MLflow model of the active run, with signature, example and requirements; its URI.

    The model brings the package's code along, so that ``mlflow models serve`` finds it anywhere.
    """
    import mlflow

    example = _example(service)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, pyfunc.FILE)
        file.write_bytes(service.to_bytes())
        info = mlflow.pyfunc.log_model(
            name=name,
            loader_module=pyfunc.__name__,
            data_path=str(file),
            code_paths=[str(Path(__file__).parents[1])],
            signature=signature_of(service.columns, service.open().predict(example)),
            input_example=example,
            pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in REQUIREMENTS],
            metadata=service.metadata,
        )
    uri: str = info.model_uri
    return uri


def _example(service: Service) -> pd.DataFrame:
    """The example with the types of the signature: doubles may look like whole numbers in JSON."""
    rows = pd.DataFrame(service.example)
    doubles = [column.name for column in service.columns if column.type == "double" and column.name in rows.columns]
    return rows.astype(dict.fromkeys(doubles, "float64"))


def _version(found: Any) -> Version:
    score = found.tags.get(SCORE)
    return Version(
        name=found.name,
        number=str(found.version),
        identity=found.tags.get(IDENTITY),
        score=RecordedScore.model_validate(json.loads(score)) if score else None,
    )
