"""Flower as a transport: a node is a worker, and a round costs one message per worker.

Nothing here phones home. Flower reads its switches when it is imported, and Ray when it
starts, so they are set before either can be: importing any module of this package comes
first. Importing the package itself imports neither.
"""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
