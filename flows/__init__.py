"""What runs: one file a flow. A flow reads like a sentence; what its steps do is in `tasks` and the library.

Flows never import flows, and no class is defined here: Prefect loads these files by path, where it would exist twice.
"""
