"""A model bundle as a Kedro dataset: one safetensors file, no pickle."""

from typing import Any

from kedro.io.core import get_filepath_str

from embedline.datasets.files import Bytes


class Bundle(Bytes):
    """:class:`embedline.training.model_file.ModelBundle` in one file."""

    @staticmethod
    def kind() -> Any:
        """The class, imported when a file is read: it needs PyTorch."""
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
