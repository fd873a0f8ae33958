"""All pipelines by name, written out: `--pipelines a,b` loads what is asked for, and a typo gets a suggestion."""

from kedro.pipeline import Pipeline

from embedline.pipelines import adult, imdb, movielens, ratings, rossmann, tabular, text


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
        "movielens": movielens.create_pipeline() + ratings.create_pipeline("movielens", users=True),
        "adult": adult.create_pipeline() + tabular.create_pipeline("adult"),
        # The nine variables of the seeds, on the same table.
        "adult_nine": adult.create_pipeline() + tabular.create_pipeline("adult_nine", table="adult.table"),
    }
    pipelines["__default__"] = sum(pipelines.values(), Pipeline([]))
    pipelines["imdb_finder"] = text.create_finder_pipeline("imdb")
    folds = ratings.create_cross_validation_pipeline("movielens", users=True)
    pipelines["movielens_folds"] = movielens.create_pipeline() + folds
    # Reads texts of yours and a model that is there: no part of a run of everything.
    pipelines["imdb_predict"] = text.create_prediction_pipeline("imdb")
    return pipelines
