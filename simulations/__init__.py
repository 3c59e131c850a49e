"""On whose data and on which machines training runs."""
