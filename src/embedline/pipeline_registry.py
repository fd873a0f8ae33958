"""All pipelines by name, written out: `--pipelines a,b` loads what is asked for, and a typo gets a suggestion."""

from kedro.pipeline import Pipeline

from embedline.pipelines import imdb, rossmann, tabular, text


def register_pipelines() -> dict[str, Pipeline]:
    """Map the names that `kedro run --pipelines` takes to pipelines."""
    features = rossmann.create_pipeline()
    # The seeds' own split, on the same table: an interpolation, to compare with their figure.
    notebook = tabular.create_pipeline("rossmann_notebook", table="rossmann.table")
    forecast = tabular.create_final_pipeline("rossmann_forecast", table="rossmann.table")
    pipelines = {
        "rossmann_features": features,
        "rossmann": features + tabular.create_pipeline("rossmann"),
        "rossmann_notebook": features + notebook,
        "rossmann_forecast": features + forecast + rossmann.create_submission_pipeline("rossmann_forecast.forecast"),
        "imdb": imdb.create_pipeline() + text.create_pipeline("imdb"),
    }
    pipelines["__default__"] = sum(pipelines.values(), Pipeline([]))
    # Reads texts of yours and a model that is there: no part of a run of everything.
    pipelines["imdb_predict"] = text.create_prediction_pipeline("imdb")
    return pipelines
