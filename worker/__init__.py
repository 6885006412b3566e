"""The node agent of the Galago orchestration system: launcher, coordinator and HTTP API."""
