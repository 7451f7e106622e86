"""The services that a team has, on this machine: `jpu services` starts, watches and ends them together.

postgres.py, s3.py, tracking.py (MLflow), orchestration.py (Prefect) and worker.py are a server each;
installation.py is what is decided once and kept; supervisor.py runs them; record.py says who runs what.
Knows nothing of the pipeline: it gets to know the services by the variables of environment.py.
"""
