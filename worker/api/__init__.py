"""The HTTP edge: Falcon resources that validate, ask the coordinator, and read the table."""
