"""`python -m worker` is `galago-worker`."""

from worker.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
