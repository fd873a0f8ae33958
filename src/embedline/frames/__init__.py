"""Feature building on data frames of any backend (Narwhals): the catalog picks Polars, pandas or another."""
