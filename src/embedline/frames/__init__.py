"""Feature building on data frames of any engine (Narwhals): the catalog picks Polars, pandas or another."""
