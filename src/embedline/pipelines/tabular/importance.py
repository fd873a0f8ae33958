"""Permutation importance: the increase of the loss on the test split when the values of a variable are shuffled."""

from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.pipelines.tabular.arrays import TableArrays, subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, TRAIN
from embedline.pipelines.tabular.encoder import FLAG, Encoder
from embedline.pipelines.tabular.model import load_model
from embedline.pipelines.tabular.options import ImportanceOptions
from embedline.pipelines.tabular.predictions import loss_name, prediction_loss
from embedline.pipelines.tabular.targets import actual_values
from embedline.training.model_file import ModelBundle


def permutation_importance(encoded: nw.DataFrame[Any], bundle: ModelBundle, options: ImportanceOptions) -> pl.DataFrame:
    """Permutation importance (Breiman 2001; Fisher, Rudin & Dominici 2019, arXiv:1801.01489) on the test split.

    Without test rows (``split.kind: folds``) it is measured on the training rows.

    A variable is shuffled with everything that the encoding derives from it: its missing-value flag, and target means
    (``encoding.target_means``) if all their columns are categorical inputs; these are recomputed from the shuffled
    codes. Other target means are variables of their own under their name, ``mean(...)``. Of two variables with the same
    information each replaces the other, so that both have a small importance.

    Returns:
        Columns ``target``, ``variable``, ``loss`` (name of the loss: ``log_loss`` in nats, ``rmse`` in the units of the
        target, ``exp_rmspe``), ``increase`` of the loss over the loss of the unshuffled rows (mean over the repeats)
        and its ``deviation`` (population standard deviation over the repeats); by target, the greatest increase first.
    """
    rows = subset(encoded, TEST)
    if not len(rows):  # with folds: every row is one that the stored network has learned from
        rows = subset(encoded, TRAIN)
    random = np.random.default_rng(options.seed)
    if len(rows) > options.rows:
        rows = rows[np.sort(random.choice(len(rows), options.rows, replace=False))]
    model = load_model(bundle)
    encoder, arrays = model.encoder, to_arrays(rows, model.encoder)
    actual = {target.column: actual_values(rows, target) for target in encoder.targets}

    def losses(inputs: TableArrays) -> NDArray[np.float64]:
        """Loss of each target, float64 [T]."""
        predicted = model.predict(inputs)
        return np.array([prediction_loss(t, actual[t.column], predicted[t.column]) for t in encoder.targets])

    whole = losses(arrays)
    found = []
    for variable in input_variables(encoder):
        orders = (torch.from_numpy(random.permutation(len(rows))) for _ in range(options.repeats))
        increases = np.stack([losses(shuffled(arrays, variable, order, encoder)) - whole for order in orders])
        found += [
            (target.column, variable.name, loss_name(target), float(mean), float(deviation))
            for target, mean, deviation in zip(
                encoder.targets, increases.mean(axis=0), increases.std(axis=0), strict=True
            )
        ]
    frame = pl.DataFrame(found, schema=["target", "variable", "loss", "increase", "deviation"], orient="row")
    order_of = {target.column: k for k, target in enumerate(encoder.targets)}
    return frame.sort(pl.col("target").replace_strict(order_of), -pl.col("increase"), maintain_order=True)


@dataclass(frozen=True)
class InputVariable:
    """Columns of a variable among the codes and the values, and the target means that are computed from its codes."""

    name: str
    codes: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    means: tuple[int, ...] = ()


def input_variables(encoder: Encoder) -> list[InputVariable]:
    """The variables of an encoder, each with all inputs of the network that derive from it."""
    codes = {name: k for k, name in enumerate(encoder.code_columns)}
    values = {name: k for k, name in enumerate(encoder.value_columns)}
    derived = [all(name in encoder.categorical for name in means.columns) for means in encoder.target_means]
    variables = [
        InputVariable(
            name,
            codes=(codes[name],),
            means=tuple(k for k, means in enumerate(encoder.target_means) if derived[k] and name in means.columns),
        )
        for name in encoder.categorical
    ]
    of_wholes = {name for parts in encoder.derived for name in (*parts.categorical, *parts.continuous)}
    variables = [variable for variable in variables if variable.name not in of_wholes]
    for parts in encoder.derived:
        flags = [codes[name + FLAG] for name in parts.continuous if name in encoder.flags]
        places = tuple(codes[name] for name in parts.categorical), tuple(values[name] for name in parts.continuous)
        variables.append(InputVariable(parts.column, codes=(*places[0], *flags), values=places[1]))
    for name in encoder.continuous:
        if name in of_wholes:
            continue
        flag = (codes[name + FLAG],) if name in encoder.flags else ()
        variables.append(InputVariable(name, codes=flag, values=(values[name],)))
    return variables + [
        InputVariable(means.name, values=(values[means.name],))
        for k, means in enumerate(encoder.target_means)
        if not derived[k]
    ]


def shuffled(arrays: TableArrays, variable: InputVariable, order: Tensor, encoder: Encoder) -> TableArrays:
    """``arrays`` with the values of one variable in another ``order`` of rows, int64 [N]."""
    codes, continuous = arrays.codes.clone(), arrays.continuous.clone()
    for matrix, columns in ((codes, variable.codes), (continuous, variable.values)):
        for column in columns:
            matrix[:, column] = matrix[order, column]
    for k in variable.means:
        means = encoder.target_means[k]
        groups = {name: codes[:, encoder.code_columns.index(name)].numpy() for name in means.columns}
        place = encoder.value_columns.index(means.name)
        continuous[:, place] = torch.from_numpy(means.standardised(groups))
    return replace(arrays, codes=codes, continuous=continuous)
