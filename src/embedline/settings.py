"""Project settings, read by Kedro before anything else."""

from embedline.config_loader import ConfigLoader
from embedline.hooks.parameters import ParameterCheck, ParameterDefaults, SourceAccess, SourcePaths
from embedline.hooks.runs import Checkpoints, MissingArtifacts, Publishing, SparkSettings
from embedline.hooks.scoreboard import Scoreboard
from embedline.hooks.studies import Studies
from embedline.hooks.tracking import DatasetNames, Redaction, Tracking
from embedline.paths import project_path, sqlite_url
from embedline.redaction import redacted
from kedro_incremental import IncrementalSession, redaction

HOOKS = (
    SourcePaths(),
    ParameterDefaults(),
    ParameterCheck(),
    SourceAccess(),
    Redaction(),
    Checkpoints(),
    Tracking(),
    Studies(),
    Publishing(),
    SparkSettings(),
    MissingArtifacts(),
    DatasetNames(),
    Scoreboard(),
)
redaction.use(redacted)  # passwords are no part of what is remembered of runs
SESSION_CLASS = IncrementalSession  # runs only what changed; see kedro_incremental

CONFIG_LOADER_CLASS = ConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "sample",  # a plain `kedro run` on a fresh clone needs no download
    "merge_strategy": {"parameters": "soft"},  # an override of one key keeps its siblings
    "custom_resolvers": {"project": project_path, "sqlite": sqlite_url},
}
