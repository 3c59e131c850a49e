"""Flower as a transport: a node is a worker, and a round costs one message per worker.

Nothing here phones home or listens beyond the loopback interface. Flower reads its
switches when it is imported, and Ray too, so they are set before either can be:
importing any module of this package comes first. Importing the package itself imports
neither.
"""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Whether Ray uses an address that other machines can reach, whatever the system.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
# Ray is not asked for accelerators; it would warn about a change of how it hides them.
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
