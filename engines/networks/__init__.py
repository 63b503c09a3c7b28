"""Networks in torch; used by calibration and by the torch runtime only."""
