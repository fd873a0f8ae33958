"""All pipelines by name: those of the demos, written out, and those of the sources in `conf/base/sources.yml`."""

from kedro.pipeline import Pipeline

from embedline.errors import DataError
from embedline.pipelines.adult import pipeline as adult
from embedline.pipelines.arxiv import pipeline as arxiv
from embedline.pipelines.images import pipeline as images
from embedline.pipelines.imdb import pipeline as imdb
from embedline.pipelines.movielens import pipeline as movielens
from embedline.pipelines.pictures import pipeline as pictures
from embedline.pipelines.publish import nodes as publish_nodes
from embedline.pipelines.publish import pipeline as publish
from embedline.pipelines.ratings import pipeline as ratings
from embedline.pipelines.report import pipeline as report
from embedline.pipelines.rossmann import pipeline as rossmann
from embedline.pipelines.tabular import pipeline as tabular
from embedline.pipelines.text import pipeline as text
from embedline.pipelines.tuning import pipeline as tuning
from embedline.sources import FILE, Source, read_sources


def register_pipelines() -> dict[str, Pipeline]:
    """Map the names that `kedro run --pipelines` takes to pipelines."""
    features = rossmann.create_pipeline()
    # The seeds' own split, on a table of its own: an interpolation, to compare with their figure.
    notebook = rossmann.create_typing_pipeline() + rossmann.create_table_pipeline("rossmann_notebook")
    notebook += tabular.create_pipeline("rossmann_notebook", ceiling="rossmann.ceiling")
    sales_ceiling = rossmann.create_ceiling_pipeline()
    incomes = adult.create_pipeline() + adult.create_ceiling_pipeline()
    forecast = tabular.create_final_pipeline("rossmann_forecast", table="rossmann.table")
    pipelines = {
        "rossmann_features": features,
        "rossmann": features + sales_ceiling + tabular.create_pipeline("rossmann", ceiling="rossmann.ceiling"),
        "rossmann_notebook": sales_ceiling + notebook,
        "rossmann_forecast": features + forecast + rossmann.create_submission_pipeline("rossmann_forecast.forecast"),
        "imdb": imdb.create_pipeline()
        + imdb.create_ceiling_pipeline()
        + text.create_pipeline("imdb", ceiling="imdb.ceiling"),
        "arxiv": arxiv.create_pipeline() + text.create_language_model_pipeline("arxiv"),
        "movielens": movielens.create_pipeline()
        + movielens.create_ceiling_pipeline()
        + ratings.create_pipeline("movielens", users=True, ceiling="movielens.ceiling"),
        "adult": incomes + tabular.create_pipeline("adult", ceiling="adult.ceiling"),
        # The nine variables of the seeds, on the same table.
        "adult_nine": incomes + tabular.create_pipeline("adult_nine", table="adult.table", ceiling="adult.ceiling"),
    }
    # Pictures: fast.ai's pets is part of a run of everything, the other two are asked for by name.
    pictured = {source: _pictured(source) for source in ("pets", "paddy", "cifar10")}
    pipelines["pets"] = pictured["pets"]
    pipelines["__default__"] = sum(pipelines.values(), Pipeline([]))
    pipelines |= pictured
    pipelines["rossmann_backtest"] = features + rossmann.create_backtest_pipeline()
    # For a corpus without labels, or to start other models from: pretrained: …/language_model.safetensors.
    pipelines["imdb_language_model"] = imdb.create_pipeline() + text.create_language_model_pipeline("imdb")
    pipelines["imdb_finder"] = text.create_finder_pipeline("imdb")
    folds = ratings.create_cross_validation_pipeline("movielens", users=True)
    pipelines["movielens_folds"] = movielens.create_pipeline() + folds
    # Search settings on rows inside the training part.
    pipelines["rossmann_tune"] = features + tuning.create_table_tuning("rossmann")
    pipelines["adult_tune"] = adult.create_pipeline() + tuning.create_table_tuning("adult")
    pipelines["movielens_tune"] = movielens.create_pipeline() + tuning.create_ratings_tuning("movielens", users=True)
    learned = pipelines["imdb"].to_outputs("imdb.ids", "imdb.vocabulary", "imdb.language_model")
    pipelines["imdb_tune"] = learned + tuning.create_text_tuning("imdb")
    # Bring the model into service: pack it, measure the service on raw rows, register it; the hook Publishing does so.
    pipelines |= {f"{source}_publish": pipelines[source] + extra for source, extra in _publishing().items()}
    # Reads texts of yours and a model that is there: no part of a run of everything.
    pipelines["imdb_predict"] = text.create_prediction_pipeline("imdb")
    for source in ("rossmann", "adult", "movielens"):
        pipelines[f"{source}_predict"] = publish.create_predict_pipeline(source, _publishing()[source])
    for source in pictured:
        pipelines[f"{source}_predict"] = images.create_prediction_pipeline(source)
    for name, declared in read_sources().items():
        own = _own_pipelines(name, declared)
        if clashes := sorted(own.keys() & pipelines.keys()):
            raise DataError(f"{FILE}: {name}: there is a pipeline {clashes[0]!r} already: take another name")
        pipelines |= own
    # Shows what is stored of all the others; what is not stored is left out.
    pipelines["report"] = report.create_pipeline(pipelines)
    return pipelines


def _pictured(source: str) -> Pipeline:
    learner = images.create_pipeline(source, ceiling=f"{source}.ceiling")
    return pictures.create_pipeline(source) + pictures.create_ceiling_pipeline(source) + learner


def _own_pipelines(name: str, source: Source) -> dict[str, Pipeline]:
    """The pipelines of a source that :data:`.sources.FILE` declares, by name."""
    if source.learner == "tabular":
        table = source.table
        found = {name: tabular.create_pipeline(name, table=table)}
        publishing = publish.create_table_publish_pipeline(name, table=table)
        found[f"{name}_tune"] = tuning.create_table_tuning(name, table=table)
        if source.backtest:
            found[f"{name}_backtest"] = tabular.create_backtest_pipeline(name, table=table)
    elif source.learner == "ratings":
        items, users = source.items, source.users
        found = {name: ratings.create_pipeline(name, items=items, users=users, events=source.events)}
        if source.events:
            return found
        publishing = _publish_ratings(name)
        found[f"{name}_tune"] = tuning.create_ratings_tuning(name, items=items, users=users)
    elif source.learner == "images":
        found = {name: pictures.create_pipeline(name) + images.create_pipeline(name)}
        found[f"{name}_predict"] = images.create_prediction_pipeline(name)
        publishing = _publish_images(name)
    else:
        corpus = Pipeline([]) if source.documents else imdb.create_corpus_pipeline(name)
        if source.learner == "language_model":
            return {name: corpus + text.create_language_model_pipeline(name, documents=source.documents)}
        learner = text.create_pipeline(name, documents=source.documents, language_model=source.language_model)
        publishing = _publish_texts(name, source.documents or "documents")
        found = {name: corpus + learner, f"{name}_predict": text.create_prediction_pipeline(name)}
        if not source.language_model:  # the search starts from the source's own
            learned = found[name].to_outputs(f"{name}.ids", f"{name}.vocabulary", f"{name}.language_model")
            found[f"{name}_tune"] = learned + tuning.create_text_tuning(name)
    found[f"{name}_publish"] = found[name] + publishing
    found.setdefault(f"{name}_predict", publish.create_predict_pipeline(name, publishing))
    return found


def _publishing() -> dict[str, Pipeline]:
    return {
        "rossmann": rossmann.create_publish_pipeline(),
        "adult": publish.create_table_publish_pipeline("adult"),
        "imdb": _publish_texts("imdb"),
        "movielens": _publish_ratings("movielens"),
        "pets": _publish_images("pets"),
    }


def _publish_texts(source: str, documents: str = "documents") -> Pipeline:
    return publish.create_publish_pipeline(
        source,
        pack=publish_nodes.pack_texts,
        pack_inputs=["model"],
        hold_out=publish_nodes.hold_out_texts,
        hold_out_inputs=[documents],
    )


def _publish_images(source: str) -> Pipeline:
    return publish.create_publish_pipeline(
        source,
        pack=publish_nodes.pack_images,
        pack_inputs=["model"],
        hold_out=publish_nodes.hold_out_images,
        hold_out_inputs=["images", "raw", "encoder", "params:targets"],
    )


def _publish_ratings(source: str) -> Pipeline:
    return publish.create_publish_pipeline(
        source,
        pack=publish_nodes.pack_ratings,
        pack_inputs=["model", "ranker", "encoded"],
        hold_out=publish_nodes.hold_out_ratings,
        hold_out_inputs=["ratings", "params:columns", "params:split"],
    )
