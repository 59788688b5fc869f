"""`python -m app` is `tickwick`."""

from app.cli import main

main()
