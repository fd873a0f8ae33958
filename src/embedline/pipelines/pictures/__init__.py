"""Labelled pictures in archives and folders: pets, plants, your own; from the files to ``<source>.images``."""
