"""What runs: one file per flow. What its steps do is in `tasks` and the library.

Flows never import flows and define no classes: Prefect loads these files by path, so a class would exist twice.
"""
