"""How the daemon is: meters of every stage, a heartbeat that proves advance, systemd's notifications, HTTP metrics."""
