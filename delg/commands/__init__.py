"""The commands of ``delg``, a file for each group; :mod:`delg.cli` puts them together."""
