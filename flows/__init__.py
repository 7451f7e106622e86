"""What runs when: the Prefect flow, its deployment, the servers and the command line."""
