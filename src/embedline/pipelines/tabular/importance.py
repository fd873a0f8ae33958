"""How much the network needs each variable: the loss on held-out rows once the variable's values are shuffled."""

from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.tabular.arrays import TableArrays, subset, to_arrays
from embedline.pipelines.tabular.columns import TEST
from embedline.pipelines.tabular.encoder import FLAG, Encoder
from embedline.pipelines.tabular.learner import load_model
from embedline.pipelines.tabular.options import ImportanceOptions
from embedline.pipelines.tabular.predictions import actual_values, loss_name, loss_of
from embedline.training.model_file import ModelBundle


def permutation_importance(encoded: nw.DataFrame[Any], bundle: ModelBundle, options: ImportanceOptions) -> pl.DataFrame:
    """Permutation importance (Breiman 2001; Fisher, Rudin & Dominici 2019, arXiv:1801.01489) on the evaluated rows.

    A variable is shuffled with all that the encoding made of it: its missing-value flag goes with it, and target means
    (``encoding.target_means``) are computed anew from the shuffled column where all their columns are categorical
    inputs. Other target means, those by a column that is no categorical input, are variables of their own under their
    name, ``mean(...)``. Two variables that say the same thing stand in for each other: each alone then counts little.

    Returns:
        Columns ``target``, ``variable``, ``loss`` (its name: ``log_loss`` in nats, ``rmse`` in the target's units,
        ``exp_rmspe``), ``increase`` of the loss over that of the rows as they are (mean over the repeats) and its
        ``deviation`` (population, over the repeats); by target, the greatest increase first.

    Raises:
        DataError: if no row is evaluated.
    """
    rows = subset(encoded, TEST)
    if not len(rows):
        raise DataError("there are no evaluated rows to measure the importance of variables on: split.kind is none")
    random = np.random.default_rng(options.seed)
    if len(rows) > options.rows:
        rows = rows[np.sort(random.choice(len(rows), options.rows, replace=False))]
    model = load_model(bundle)
    encoder, arrays = model.encoder, to_arrays(rows, model.encoder)
    actual = {target.column: actual_values(rows, target) for target in encoder.targets}

    def losses(inputs: TableArrays) -> NDArray[np.float64]:
        """Loss of each target, float64 [T]."""
        predicted = model.predict(inputs)
        return np.array([loss_of(t, actual[t.column], predicted[t.column]) for t in encoder.targets])

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
    place = {target.column: k for k, target in enumerate(encoder.targets)}
    return frame.sort(pl.col("target").replace_strict(place), -pl.col("increase"), maintain_order=True)


@dataclass(frozen=True)
class InputVariable:
    """A variable's columns among the codes and the values, and the target means that follow from its codes."""

    name: str
    codes: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    means: tuple[int, ...] = ()


def input_variables(encoder: Encoder) -> list[InputVariable]:
    """The variables of an encoder, each with all inputs of the network that follow from it."""
    codes = {name: k for k, name in enumerate(encoder.code_columns)}
    values = {name: k for k, name in enumerate(encoder.value_columns)}
    followed = [all(name in encoder.categorical for name in means.columns) for means in encoder.target_means]
    variables = [
        InputVariable(
            name,
            codes=(codes[name],),
            means=tuple(k for k, means in enumerate(encoder.target_means) if followed[k] and name in means.columns),
        )
        for name in encoder.categorical
    ]
    for name in encoder.continuous:
        flag = (codes[name + FLAG],) if name in encoder.flags else ()
        variables.append(InputVariable(name, codes=flag, values=(values[name],)))
    return variables + [
        InputVariable(means.name, values=(values[means.name],))
        for k, means in enumerate(encoder.target_means)
        if not followed[k]
    ]


def shuffled(arrays: TableArrays, variable: InputVariable, order: Tensor, encoder: Encoder) -> TableArrays:
    """``arrays`` with the rows of one variable in another ``order`` [N]."""
    codes, continuous = arrays.codes.clone(), arrays.continuous.clone()
    for matrix, columns in ((codes, variable.codes), (continuous, variable.values)):
        for column in columns:
            matrix[:, column] = matrix[order, column]
    for k in variable.means:
        means = encoder.target_means[k]
        of = {name: codes[:, encoder.code_columns.index(name)].numpy() for name in means.columns}
        place = encoder.value_columns.index(means.name)
        continuous[:, place] = torch.from_numpy(means.standardised(of))
    return replace(arrays, codes=codes, continuous=continuous)
