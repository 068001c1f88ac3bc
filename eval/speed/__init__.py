"""How long each stage takes on this machine, how much it stores, and how both grow.

A module of this package measures a group of stages: functions marked with
:func:`eval.speed.harness.stage`, which the harness finds. ``--baseline`` runs reference
implementations of the same work in the same process, in turns with ours.
"""
