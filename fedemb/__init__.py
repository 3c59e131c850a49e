"""DP-FedEmb core: what one round does."""
