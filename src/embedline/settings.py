"""Project settings, read by Kedro before anything else."""

from embedline.config_loader import ConfigLoader
from embedline.hooks import Checkpoints, DatasetNames, Tracking
from embedline.parameter_hooks import ParameterCheck, ParameterDefaults
from embedline.paths import project_path, sqlite_url
from embedline.publishing_hook import Publishing
from embedline.redaction import redacted
from embedline.redaction_hooks import Redaction
from embedline.report_hooks import MissingArtifacts
from embedline.running import IncrementalSession, redaction
from embedline.source_hooks import SourceAccess, SourcePaths
from embedline.spark_hooks import SparkSettings

HOOKS = (
    SourcePaths(),
    ParameterDefaults(),
    ParameterCheck(),
    SourceAccess(),
    Redaction(),
    Checkpoints(),
    Tracking(),
    Publishing(),
    SparkSettings(),
    MissingArtifacts(),
    DatasetNames(),
)
redaction.use(redacted)  # passwords are no part of what is remembered of runs
SESSION_CLASS = IncrementalSession  # runs only what changed; see embedline.running

CONFIG_LOADER_CLASS = ConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "sample",  # a plain `kedro run` on a fresh clone needs no download
    "merge_strategy": {"parameters": "soft"},  # an override of one key keeps its siblings
    "custom_resolvers": {"project": project_path, "sqlite": sqlite_url},
}
