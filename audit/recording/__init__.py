"""What Prefect does, as events: the only room that imports prefect."""
