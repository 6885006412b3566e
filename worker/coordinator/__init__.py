"""The one process that decides: a selector loop around the pure core, and the hands that carry out its effects."""
