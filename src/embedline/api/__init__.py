"""The learners as scikit-learn estimators, for notebooks and scripts without a Kedro project.

An estimator runs the very nodes of a learner's pipeline, in memory, and keeps the same model file.
"""

from embedline.api.ratings import Recommender
from embedline.api.tables import TabularClassifier, TabularRegressor
from embedline.api.texts import LanguageModel, TextClassifier

__all__ = ["LanguageModel", "Recommender", "TabularClassifier", "TabularRegressor", "TextClassifier"]
