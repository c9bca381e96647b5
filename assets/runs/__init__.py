"""Runs of a study: their estimate, their progress and their execution; the sensor and the schedule that start them."""
