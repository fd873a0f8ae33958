"""Rossmann store sales: from the public files to ``rossmann.table``, and from a forecast to a submission."""
