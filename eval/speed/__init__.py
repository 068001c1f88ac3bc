"""How long each stage takes on this machine, how much it stores, and how both grow.

A module of this package measures a group of stages: functions marked with
:func:`eval.speed.harness.stage`, which are found by themselves. ``--baseline`` runs the published
way of doing the same work in the same process, in turns with ours.
"""
