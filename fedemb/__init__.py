"""DP-FedEmb core: what does one round do?"""
