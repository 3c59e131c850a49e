"""Names the apps for Flower."""

from simulations.flower.client import client_app
from simulations.flower.server import server_app

__all__ = ["client_app", "server_app"]
