"""Draw the documentation's pictures from the project itself: the DAG by kedro-viz, and figures that a run has stored.

    python docs/pictures.py                                    # from the artifacts of the environment base
    python docs/pictures.py --params data_root=/elsewhere dag  # one picture, from artifacts elsewhere
    kedro run | tee run.log; python docs/pictures.py --log run.log terminal

It needs chromium. A picture whose artifact is not stored is left as it is, and said so.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from textwrap import wrap

from mlflow import MlflowClient
from PIL import Image, ImageChops, ImageDraw, ImageFont

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "tests")]

from browsers import Browser, served, waiting  # noqa: E402
from copies import copy_project  # noqa: E402
from embedline.commands.artifacts import open_catalog  # noqa: E402

FIGURES = {  # picture: artifact, width and height in pixels of a page; None: as the figure says
    "forecast": ("rossmann.forecast_plot", 1100, None),
    "embeddings": ("rossmann.embedding_plot", 1100, 470),
    "films": ("movielens.map_plot", None, None),
}
COLOURS = 256  # of a stored picture; text and lines need no more, and the file is half as large
DRAWN = ".pipeline-node__text"  # what kedro-viz has once its graph is there
TERMINAL = {"ground": "#171e27", "ink": "#e3e9f0", "better": "#3fcf97", "worse": "#ff7a72"}
MARGIN = 24  # pixels around what is drawn
# The graph alone: no panels, no hints, nothing that says which version is newest.
STATE = {"theme": "light", "expandAllPipelines": True, "showFeatureHints": False, "visible": {"sidebar": False}}
HIDDEN = (
    ".update-reminder-unexpanded, .update-reminder-expanded, .pipeline-minimap-container, .feature-hints, "
    ".pipeline-primary-toolbar, .pipeline-sidebar, .pipeline-global-toolbar, .pipeline-ui"
)


def main() -> None:
    """Draw the pictures that the command line names, or all."""
    names = ["dag", "graph-light", "graph-dark", "report", *FIGURES, "terminal", "mlflow"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}; all unless given")
    parser.add_argument("--env", default="base", help="environment of the artifacts")
    parser.add_argument("--params", default="", help="data_root=FOLDER, where they are elsewhere")
    parser.add_argument("--log", type=Path, help="what `kedro run` printed, for the picture of the terminal")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the pictures")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(names)):
        parser.error(f"there is no picture {unknown[0]!r}, only {', '.join(names)}")
    params = dict(part.split("=", 1) for part in given.params.split(",") if part)
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(Path(folder))
        catalog = _catalog(given.env, params)
        for name in given.names or names:
            path = given.output / f"{name}.png"
            if name == "dag":
                drawn = draw_dag(browser, path, Path(folder))
            elif name.startswith("graph-"):
                drawn = draw_graph(browser, path, given.env, name.removeprefix("graph-"))
            elif name == "mlflow":
                drawn = draw_mlflow(browser, path)
            elif name == "terminal":
                drawn = given.log is not None and draw_terminal(given.log.read_text(), path)
            elif name == "report":
                drawn = draw_report(browser, catalog, path, Path(folder))
            else:
                drawn = draw(browser, catalog, name, path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB" if drawn else f"{path}: left as it is")  # noqa: T201


def _catalog(env: str, params: dict[str, str]) -> object:
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    return open_catalog(env, params)


def draw_dag(browser: Browser, path: Path, folder: Path) -> bool:
    """The pipeline ``rossmann`` in kedro-viz, every namespace open."""
    site = build_viz(copy_project(folder / "project"))
    page = site / "index.html"
    script = f"localStorage.setItem('KedroViz', JSON.stringify({json.dumps(STATE)}))"
    head = f"<head><script>{script}</script><style>{HIDDEN} {{display: none !important}}</style>{waiting(DRAWN)}"
    page.write_text(page.read_text().replace("<head>", head))
    with served(site) as address:
        url = f"{address}/?pid=rossmann&expandAllPipelines=true"
        browser.picture(url, path, width=1000, height=1240, scale=1.6)
    trim(path)
    return True


def draw_graph(browser: Browser, path: Path, env: str, theme: str) -> bool:
    """The first thing that `kedro viz run --env …` shows, in one of its themes."""
    page = build_viz(PROJECT, env) / "index.html"
    state = json.dumps({"theme": theme, "showFeatureHints": False})
    head = f"<head><script>localStorage.setItem('KedroViz', JSON.stringify({state}))</script>{waiting(DRAWN)}"
    page.write_text(page.read_text().replace("<head>", head))
    with served(page.parent) as address:
        browser.picture(f"{address}/?pid=__default__", path, width=1280, height=760, scale=1.25)
    shutil.rmtree(page.parent)
    shrink(path)
    return True


def draw_mlflow(browser: Browser, path: Path) -> bool:
    """The runs of the project's MLflow database, as `kedro mlflow ui` lists them; False where there are none."""
    store = f"sqlite:///{PROJECT}/mlflow.db"
    runs = MlflowClient(store)
    experiment = runs.get_experiment_by_name("embedline") if (PROJECT / "mlflow.db").exists() else None
    if experiment is None:
        return False
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        store,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        url = f"{address}/#/experiments/{experiment.experiment_id}/runs"
        browser.picture(url, path, width=1280, height=620, scale=1.25)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    shrink(path)
    return True


def build_viz(project: Path, env: str | None = None) -> Path:
    """The site that `kedro viz build` makes of a project, without what it would load from the network."""
    environment = {"PYTHONPATH": str(project / "src"), "PATH": str(Path(sys.executable).parent)}
    environment |= {"KEDRO_ENV": env} if env else {}
    command = [sys.executable, "-m", "kedro", "viz", "build", "--include-previews"]
    finished = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    page = project / "build" / "index.html"
    if finished.returncode or not page.exists():
        raise RuntimeError(f"kedro viz build failed:\n{finished.stdout}{finished.stderr}")
    page.write_text(re.sub(r"<link[^>]*fonts\.g[^>]*>", "", page.read_text()))
    return page.parent


def draw(browser: Browser, catalog: object, name: str, path: Path) -> bool:
    """A stored figure; False where it is not stored."""
    artifact, width, height = FIGURES[name]
    if not catalog.exists(artifact):  # type: ignore[attr-defined]
        return False
    figure = catalog.load(artifact)  # type: ignore[attr-defined]
    width, height = width or figure.layout.width or 900, height or figure.layout.height or 480
    figure.update_layout(width=width, height=height)
    page = path.with_suffix(".html")
    try:
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        browser.picture(page.as_uri(), path, width=width + 40, height=height + 40, scale=1.5)
    finally:
        page.unlink(missing_ok=True)
    trim(path)
    return True


def draw_report(browser: Browser, catalog: object, path: Path, folder: Path) -> bool:
    """The beginning of the stored report; False where there is none."""
    if not catalog.exists("report.page"):  # type: ignore[attr-defined]
        return False
    page = folder / "report.html"
    page.write_text(catalog.load("report.page"), encoding="utf-8")  # type: ignore[attr-defined]
    browser.picture(page.as_uri(), path, width=1280, height=1100, scale=1.25)
    shrink(path)
    return True


def draw_terminal(said: str, path: Path, columns: int = 80) -> bool:
    """What `kedro run` printed as a dark terminal shows it, its verdicts in their colours."""
    lines = ["$ kedro run", *(part for line in said.splitlines() for part in (wrap(line, columns) or [""]))]
    font = ImageFont.truetype("DejaVuSansMono.ttf", 18)
    width, height = font.getlength("m"), 24
    size = (int(width * columns) + 2 * MARGIN, height * len(lines) + 2 * MARGIN)
    picture = Image.new("RGB", size, TERMINAL["ground"])
    pen = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        for found in re.finditer(r"(better|worse)|\S+|\s+", line):
            colour = TERMINAL.get(found[1] or "", TERMINAL["ink"])
            pen.text((MARGIN + width * found.start(), MARGIN + height * row), found[0], font=font, fill=colour)
    picture.save(path)
    shrink(path)
    return True


def trim(path: Path) -> None:
    """Cut off the empty border of a picture, and shrink it."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    empty = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    left, top, right, bottom = ImageChops.difference(picture, empty).getbbox() or (0, 0, *picture.size)
    frame = (max(0, left - MARGIN), max(0, top - MARGIN), right + MARGIN, bottom + MARGIN)
    kept = picture.crop((*frame[:2], min(picture.width, frame[2]), min(picture.height, frame[3])))
    kept.save(path)
    shrink(path)


def shrink(path: Path) -> None:
    """Keep as few colours as a picture needs."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    staged = path.with_name(f".{path.name}")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(staged, format="PNG", optimize=True)
    shutil.move(staged, path)


if __name__ == "__main__":
    main()
