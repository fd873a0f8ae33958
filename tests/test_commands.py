"""`predict` and `generate` at the command line, on stored models with random weights; each value is computed anew."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import warm
from command_line import NEW, OLD, invoke, store
from copies import PROJECT
from embedline.commands.text_files import typed
from embedline.errors import DataError
from shared import tracking_database

SPECIALS = ("xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj")
WORDS = ("the", "film", "was", "wonderful", "dull", "and", "i", "loved", "it", ".", "not", "!")


def make_bundles(seed: int) -> dict[str, Any]:
    """A language model and a classifier with random weights, and a table's model."""
    import torch

    from embedline.pipelines.text.classifier import build_classifier
    from embedline.pipelines.text.language_model import TIED, build_language_model
    from embedline.pipelines.text.options import EncoderOptions, Rates
    from embedline.pipelines.text.tokenizer import TokenOptions
    from embedline.pipelines.text.vocabulary import Vocabulary
    from embedline.training.model_file import ModelBundle

    rates = Rates(input=0.1, embedding=0.1, weight=0.1, hidden=0.1, output=0.1)
    network = EncoderOptions(embedding_size=8, hidden_size=12, n_layers=2, rates=rates).model_dump(mode="json")
    vocabulary = Vocabulary(
        tokens=SPECIALS + WORDS,
        specials=SPECIALS,
        unknown=0,
        padding=1,
        rules="ulmfit",
        fitted_on=("train",),
        min_freq=1,
    )
    encoder = {
        "vocabulary": vocabulary.model_dump(mode="json"),
        "tokens": TokenOptions(rules="ulmfit").model_dump(mode="json"),
    }
    size = {"vocabulary_size": len(vocabulary), "encoder": network}
    config = {**size, "layers": [5], "head_rates": [0.1, 0.1], "n_classes": 2, "bptt": 4, "max_tokens": 20}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = build_classifier(config)
        language_model = build_language_model({**size, "decoder_bias": True})
        for parameter in (*classifier.parameters(), *language_model.parameters()):
            torch.nn.init.normal_(parameter, std=0.6)
    weights = {name: value for name, value in language_model.state_dict().items() if name != TIED}
    return {
        "model": ModelBundle(
            "text_classifier", config, {**encoder, "classes": ["neg", "pos"]}, dict(classifier.state_dict())
        ),
        "language_model": ModelBundle("language_model", {**size, "decoder_bias": True}, encoder, weights),
        "table": ModelBundle("tabular", {}, {}, {"0.weight": torch.zeros(1)}),
    }


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of an environment: two versions of imdb's models, and a table's."""
    root = tmp_path_factory.mktemp("data")
    for version, seed in ((OLD, 1), (NEW, 2)):
        bundles = make_bundles(seed)
        for name, kind in (
            ("imdb/model", "model"),
            ("imdb/language_model", "language_model"),
            ("rossmann/model", "table"),
        ):
            store(root, f"06_models/{name}.safetensors", version).write_bytes(bundles[kind].to_bytes())
    return root


@pytest.fixture
def run(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command of the project on these artifacts; its result."""
    monkeypatch.chdir(PROJECT)
    return lambda *given, **more: invoke(*given, "--params", f"data_root={data_root}", **more)


def expected_probabilities(texts: list[str], seed: int = 2) -> np.ndarray:
    from embedline.pipelines.text.classifier import class_probabilities, load_classifier
    from embedline.pipelines.text.tokenizer import tokenize_texts

    network, vocabulary, tokens, _ = load_classifier(make_bundles(seed)["model"])
    return class_probabilities(network, [vocabulary.ids(words) for words in tokenize_texts(texts, tokens)])


TEXTS = ["The film was wonderful, I loved it!", "Dull."]


class TestPredict:
    def test_table_of_the_newest_model(self, run: Any) -> None:
        printed = run("predict", "imdb", *TEXTS).output
        for text, p in zip(TEXTS, expected_probabilities(TEXTS), strict=True):
            (line,) = [line for line in printed.splitlines() if line.startswith(text)]
            assert ["neg", "pos"][p.argmax()] in line.split()
            assert f"{p.max():.4f}" in line
        assert f"imdb.model of sample, version {NEW}" in printed
        assert "moved by" in printed

    def test_words_that_moved_it(self, run: Any) -> None:
        line = next(line for line in run("predict", "imdb", "I loved it").output.splitlines() if "loved it" in line)
        # Without the word in the text, and with it alone on a background of unknown words.
        texts = ["I loved it", "I zorgon it", "zorgon loved blarp", "zorgon glib blarp"]
        found = expected_probabilities(texts)
        best = found[0].argmax()
        odds = np.log(found[:, best]) - np.log(found[:, 1 - best])
        assert f"loved {(odds[0] - odds[1] + odds[2] - odds[3]) / 2:+.2f}" in line
        assert "moved by" not in run("predict", "imdb", "I loved it", "--no-explain").output

    def test_a_version_by_name(self, run: Any) -> None:
        old = expected_probabilities(["Dull."], seed=1)[0].max()
        assert f"{old:.4f}" in run("predict", "imdb", "Dull.", "--version", OLD).output
        message = run("predict", "imdb", "Dull.", "--version", "1999", status=1).output
        assert f"imdb.model has no version '1999' in sample; the newest is {NEW}" in message

    def test_standard_input(self, run: Any) -> None:
        printed = run("predict", "imdb", "-", stdin=b"Dull.\n\nI loved it\n").output
        assert [line.split("  ")[0] for line in printed.splitlines()[1:3]] == ["Dull.", "I loved it"]
        assert "moved by" not in printed
        message = run("predict", "imdb", "-", status=1, stdin=b"fine\ncaf\xe9\n").output
        assert "standard input: line 2 is not UTF-8 (byte 0xe9)" in message
        assert "holds no text" in run("predict", "imdb", "-", status=1, stdin=b"\n").output

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_from_file_to_file(self, run: Any, tmp_path: Path, suffix: str) -> None:
        source, output = tmp_path / f"reviews.{suffix}", tmp_path / f"out.{suffix}"
        frame = pl.DataFrame({"id": ["007", "8"], "review": TEXTS})
        frame.write_csv(source) if suffix == "csv" else frame.write_parquet(source)
        options = ("--file", str(source), "--column", "review", "--output", str(output))
        printed = run("predict", "imdb", *options).output
        found = pl.read_csv(output, schema_overrides={"id": pl.String}) if suffix == "csv" else pl.read_parquet(output)
        assert found.columns == ["id", "review", "predicted", "confidence", "p_neg", "p_pos"]
        assert found.select("id", "review").equals(frame)
        expected = expected_probabilities(TEXTS)
        assert found.select("p_neg", "p_pos").to_numpy() == pytest.approx(expected, abs=1e-6)
        assert f"Wrote 2 rows to {output}" in printed
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, output.name])
        before = output.read_bytes()
        assert "exists already" in run("predict", "imdb", *options, status=1).output
        assert output.read_bytes() == before

    def test_words_in_a_file(self, run: Any, tmp_path: Path) -> None:
        run("predict", "imdb", "I loved it", "--output", str(tmp_path / "out.csv"))
        found = pl.read_csv(tmp_path / "out.csv")
        assert found.columns == ["text", "predicted", "confidence", "p_neg", "p_pos", "moved_by"]
        assert "loved" in found["moved_by"][0]

    def test_files_that_cannot_be_read(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "latin.csv").write_bytes(b"text\nfine\ncaf\xe9\n")
        (tmp_path / "bare.csv").write_text("text\n")
        (tmp_path / "empty.csv").write_text("")
        (tmp_path / "broken.parquet").write_text("nonsense")
        pl.DataFrame({"text": [1]}).write_parquet(tmp_path / "numbers.parquet")
        output = tmp_path / "out.csv"
        for name, column, message in (
            ("latin.csv", "text", "line 3 is not UTF-8 (byte 0xe9)"),
            ("bare.csv", "text", "has no rows"),
            ("bare.csv", "review", "has no column 'review', only 'text'"),
            ("empty.csv", "text", "cannot be read"),
            ("broken.parquet", "text", "cannot be read"),
            ("numbers.parquet", "text", "column 'text' holds Int64, not text"),
            ("none.csv", "text", "cannot be read: No such file"),
            ("notes.txt", "text", "must end in .csv or .parquet"),
        ):
            path = tmp_path / name
            options = ("--file", str(path), "--column", column, "--output", str(output))
            printed = run("predict", "imdb", *options, status=1).output
            assert printed.startswith(f"Error: {path}") and message in printed, printed
            assert len(printed.splitlines()) == 1
        assert not output.exists()

    def test_outputs_that_cannot_be_written(self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, message in (("out.txt", "must end in"), ("no/out.csv", "there is no folder")):
            printed = run("predict", "imdb", "fine", "--output", str(tmp_path / name), status=1).output
            assert message in printed

        def full(self: pl.DataFrame, path: Path) -> None:
            path.write_text("text,pre")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pl.DataFrame, "write_csv", full)
        printed = run("predict", "imdb", "fine", "--output", str(tmp_path / "out.csv"), status=1).output
        assert "out.csv cannot be written: No space left on device" in printed
        assert list(tmp_path.iterdir()) == []

    def test_a_table_shows_the_first_rows(self, run: Any) -> None:
        lines = [f"I loved it {number}" for number in range(23)]
        printed = run("predict", "imdb", "-", stdin="\n".join(lines).encode()).output
        assert "I loved it 19" in printed and "I loved it 20" not in printed
        assert "… and 3 more texts: --output writes them all" in printed

    def test_words_are_highlighted_by_their_influence(self) -> None:
        from embedline.commands.texts import SHOWN_CHARACTERS, _highlighted

        words = ["The", "film", "was", "dull", "fine"]
        explanation = pl.DataFrame({"word": words, "influence": [0.01, 0.3, 0.0, -2.0, 1.1]})
        shown = _highlighted("The FILM was dull, fine.", explanation)
        assert shown.plain == "The FILM was dull, fine."
        marks = {shown.plain[span.start : span.end]: span.style for span in shown.spans}
        assert marks == {"FILM": "green", "dull": "bold red", "fine": "bold green"}
        long = _highlighted("x " * SHOWN_CHARACTERS, None)
        assert len(long.plain) == SHOWN_CHARACTERS + 1 and long.plain.endswith("…")

    def test_what_steers_the_terminal_is_not_printed(self, run: Any) -> None:
        printed = run("predict", "imdb", "[bold]film[/bold] \x1b[31mwas\x07", "--no-explain").output
        assert "[bold]film[/bold]" in printed
        assert "\x1b" not in printed and "\x07" not in printed

    def test_wrong_calls(self, run: Any) -> None:
        assert "give texts, or --file" in run("predict", "imdb", status=2).output
        assert "not both" in run("predict", "imdb", "fine", "--file", "x.csv", status=2).output


class TestModels:
    def test_none_yet(self, run: Any, data_root: Path, tmp_path: Path) -> None:
        given = ("predict", "imdb", "fine", "--env", "base", "--params", f"data_root={tmp_path}")
        expected = "there is no imdb.model in base yet: run `kedro run --pipelines imdb --env base` first"
        assert invoke(*given, status=1).output == f"Error: {expected}\n"

    def test_an_unknown_source(self, run: Any) -> None:
        message = run("generate", "imdbb", status=1).output
        assert "there is no imdbb.language_model in sample yet: no pipeline makes it" in message
        assert "'imdb'" in message

    def test_a_table(self, run: Any) -> None:
        message = run("predict", "rossmann", "fine", status=1).output
        assert "rossmann.model of sample" in message
        assert "`embedline predict rossmann FILE`" in message
        assert "nowhere.csv" in run("predict", "imdb", "nowhere.csv", status=1).output

    def test_a_broken_one(self, run: Any, data_root: Path) -> None:
        store(data_root, "06_models/broken/model.safetensors", NEW).write_bytes(b"nonsense")
        message = run("predict", "broken", "fine", status=1).output
        assert "is not a readable model bundle" in message and len(message.splitlines()) == 1

    def test_parts_of_two_models(self, run: Any, data_root: Path) -> None:
        bundle = make_bundles(1)["model"]
        bundle.encoder["vocabulary"]["tokens"].append("more")
        store(data_root, "06_models/mixed/model.safetensors", NEW).write_bytes(bundle.to_bytes())
        message = run("predict", "mixed", "fine", status=1).output
        assert "the vocabulary has 22 tokens, the network knows 21" in message


class TestGenerate:
    def test_next_words(self, run: Any) -> None:
        from embedline.pipelines.text.generation import load_generator, prompt_ids, read_prompt

        model, vocabulary, tokens = load_generator(make_bundles(2)["language_model"])
        log_p, _ = read_prompt(model, prompt_ids("The film", vocabulary, tokens))
        best = log_p[0].exp().topk(3)
        printed = run("generate", "imdb", "The film", "--next", "3").output
        rows = [line.split() for line in printed.splitlines()[1:4]]
        assert [row[0] for row in rows] == ["1", "2", "3"]
        assert [row[1] for row in rows] == vocabulary.words(best.indices.tolist())
        assert [row[2] for row in rows] == [f"{value:.4f}" for value in best.values.tolist()]
        assert f"imdb.language_model of sample, version {NEW}" in printed

    def test_samples_are_those_of_the_options(self, run: Any) -> None:
        from embedline.pipelines.text.generation import generate, load_generator, prompt_ids
        from embedline.pipelines.text.options import GenerationOptions

        model, vocabulary, tokens = load_generator(make_bundles(2)["language_model"])
        options = GenerationOptions(n_tokens=6, n_samples=3, temperature=0.8, top_k=5, min_p=0.05, seed=4)
        frame = generate(model, vocabulary, prompt_ids("The film", vocabulary, tokens), options)
        arguments = "--tokens 6 --samples 3 --temperature 0.8 --top-k 5 --min-p 0.05 --seed 4".split()
        printed = run("generate", "imdb", "The film", *arguments).output
        for text, mean in frame.select("text", "mean_log_probability").rows():
            assert " ".join(text.split()) in " ".join(printed.split())
            assert f"{mean:.4f}" in printed

    def test_beams_show_all_of_them(self, run: Any) -> None:
        printed = run("generate", "imdb", "The film", "--beams", "4", "--tokens", "3").output
        lines = [line.split() for line in printed.splitlines() if line.split()[0] in set("1234")]
        means = [float(line[-1]) for line in lines]
        assert len(means) == 4 and means == sorted(means, reverse=True)

    def test_an_empty_prompt(self, run: Any) -> None:
        assert "mean log probability" in run("generate", "imdb", "--tokens", "3").output

    def test_contradictions(self, run: Any) -> None:
        message = run("generate", "imdb", "x", "--beams", "2", "--temperature", "0.5", status=2).output
        assert "a beam search draws nothing at random: leave out temperature" in message
        assert "--min-p" in run("generate", "imdb", "x", "--min-p", "2", status=2).output


def test_the_package_runs_the_same_commands(
    run: Any, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from embedline.__main__ import main

    arguments = ["predict", "imdb", "Dull.", "--params", f"data_root={data_root}"]
    for given, argv in (((arguments,), ["embedline"]), ((), ["embedline", *arguments])):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            main(*given)
        assert ended.value.code == 0
        assert "imdb.model of sample" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["embedline", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "predict" in capsys.readouterr().out


@pytest.mark.parametrize(
    "console",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=lambda console: "".join(console.values()),
)
def test_a_console_that_is_not_utf_8_shows_what_it_can(data_root: Path, console: dict[str, str]) -> None:
    text = "the wonderful film → café 映画 …"
    command = ["predict", "imdb", text, "--params", f"data_root={data_root}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "COLUMNS": "200", **console}
    if "LC_ALL" in console:  # which the interpreter reads as it starts
        run: Any = subprocess.Popen(
            [sys.executable, "-m", "embedline", *command],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
        )
    else:
        run = warm.start("embedline", *command, cwd=PROJECT, env=environment)
    said, _ = run.communicate()
    assert run.returncode == 0, said
    assert "the wonderful film ? caf" in said and "Traceback" not in said


@pytest.mark.parametrize("command", [["predict", "imdb", "caf\udce9"], ["generate", "imdb", "caf\udce9"]])
def test_an_argument_that_is_no_text_is_named(run: Any, command: list[str]) -> None:
    result = run(*command, status=1)
    assert "not UTF-8" in result.output and "caf" in result.output


def test_utf_8_typed_into_another_locale_is_read() -> None:
    assert typed("caf\udcc3\udca9") == typed("café") == "café"
    with pytest.raises(DataError):
        typed("caf\udce9")


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--pipelines", "rossmann_feature", "rossmann_features"),
        ("--tags", "plt", "plot"),
        ("--from-nodes", "adult.trian", "adult.trian"),
        ("--namespaces", "adlt", "adlt"),
    ],
)
def test_what_a_run_does_not_have_is_said_in_one_line(option: str, name: str, said: str, tmp_path: Path) -> None:
    root = tracking_database(tmp_path).parent
    result = invoke("run", option, name, "--params", f"data_root={root},tracking_root={root}", status=1)
    last = result.output.splitlines()[-1]
    assert last.startswith("Error: ") and said in last and "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


def test_verbose_and_quiet_exclude_each_other() -> None:
    assert "--verbose and --quiet" in invoke("run", "--verbose", "--quiet", status=2).output
