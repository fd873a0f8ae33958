"""The project's own commands beside Kedro's: what they print comes from stored models, without a run."""

from embedline.commands.init import init
from embedline.commands.recommend import recommend
from embedline.commands.serve import serve
from embedline.commands.tables import export
from embedline.commands.texts import generate, predict

__all__ = ["export", "generate", "init", "predict", "recommend", "serve"]
