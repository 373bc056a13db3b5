"""The recording scripts need torch, which the package never does, so they are not collected for doctests."""

collect_ignore_glob = ["record_*.py", "check_*.py", "parity.py"]
