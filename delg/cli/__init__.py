"""The command line ``delg …``: each package adds its own commands to :mod:`delg.cli.main`."""
