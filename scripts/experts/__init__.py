"""Scripted policies that see the simulator's state, to make demonstrations of LIBERO tasks with.

Start at `tasks.make_expert` and `world.SampledTask`. What a task needs said about it (where to
grip, how to turn the hand) is data in `tasks`; how things are done is in `skills`.
"""
