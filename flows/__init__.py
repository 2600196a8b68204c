"""What runs: one file per flow. What its steps do is in `tasks` and the library.

A new flow is a file here whose body goes through `prefect_support.run_flow`, and a deployment in `prefect.yaml`; copy
the shape of `report`. It imports `prefect_support.library_version` before it uses the library. Flows never import flows
and define no classes: Prefect loads these files by path, so a class would exist twice.
"""
