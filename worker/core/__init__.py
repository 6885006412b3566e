"""What the worker decides, without doing any of it: no file, socket, clock, process or log is touched in here."""
