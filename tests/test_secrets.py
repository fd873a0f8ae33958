"""A password in the address of a source, in the catalog or in credentials.yml is nowhere after a run, nor on screen."""

import io
import threading
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from copies import copy_project, kedro
from embedline.pipelines.movielens.simulator import GeneratorOptions, generate_files

SECRET = "S3CRET"
ALLOWED = ("Basic " + b64encode(f"joe:{SECRET}-1".encode()).decode(), f"Bearer {SECRET}-2")


@pytest.fixture
def host() -> Iterator[str]:
    """Host and port of a server that has ``/ml.zip`` for `ALLOWED` only."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        for name, content in generate_files(GeneratorOptions(n_users=20, n_items=20, n_ratings=400)).items():
            bundle.writestr(name, content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = file.getvalue() if self.headers.get("Authorization") in ALLOWED else b""
            self.send_response(200 if content else 401)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def holding_secrets(project: Path) -> list[str]:
    """Files beside the configuration that hold the secret."""
    files = (path for path in project.rglob("*") if path.is_file() and "conf" not in path.relative_to(project).parts)
    return [str(path) for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_no_file_and_no_line_has_the_password(tmp_path: Path, host: str) -> None:
    project = copy_project(tmp_path / "project")
    (project / "conf/local/credentials.yml").write_text(f"my_site: {{token: {SECRET}-2}}\n")
    catalog = project / "conf/base/catalog/movielens.yml"
    options = f"load_args: {{storage_options: {{key: {SECRET}-3, secret: {SECRET}-3}}}}"
    catalog.write_text(catalog.read_text().replace("movielens.raw: #", f"movielens.raw:\n  {options}\n  #"))
    assert SECRET in catalog.read_text()

    def run(source: str, output: str = "movielens.raw", status: int = 0) -> str:
        params = f"movielens.verify=false,movielens.source={source}"
        pipeline = output.partition(".")[0]
        said = kedro(project, "run", "--pipelines", pipeline, "--to-outputs", output, "--params", params, status=status)
        assert SECRET not in said and "Traceback" not in said
        assert holding_secrets(project) == []
        return said

    address = f"http://joe:{SECRET}-1@{host}/ml.zip?token={SECRET}-1"
    assert "1 of 1 nodes ran" in run(address)
    assert "1 of 1 nodes ran" in run(address, "report.section_movielens")
    (section,) = (project / "data/sample/08_reporting/report/movielens.json").glob("*/*.json")
    assert f"http://***@{host}/ml.zip?token=***" in section.read_text()
    assert f"http://***@{host}" in run(address.replace(f"{SECRET}-1@", f"{SECRET}-0@"), status=1)
    assert "1 of 1 nodes ran" in run(f"http://{host}/ml.zip,movielens.credentials=my_site")
